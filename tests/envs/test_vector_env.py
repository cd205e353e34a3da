"""The public face of the envs: gymnasium's vector API, states, bad input, diverged worlds."""

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import fastsac
from fastsac.envs import EngineUnavailable, UnknownTask

ENGINES = ("native", "mjx", "warp")


def test_is_a_gymnasium_vector_env(make):
    env = make("cheetah_run", num_envs=3)
    assert isinstance(env, gymnasium.vector.VectorEnv)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert env.observation_space.shape == (3, 17) and env.action_space.shape == (3, 6)
    assert env.single_action_space.low.min() == -1 and env.single_action_space.high.max() == 1
    obs, info = env.reset(seed=0)
    assert obs.dtype == torch.float32 and tuple(obs.shape) == (3, 17)
    action = torch.from_numpy(env.action_space.sample())
    obs, reward, terminated, truncated, info = env.step(action)
    assert reward.dtype == torch.float32 and tuple(reward.shape) == (3,)
    assert terminated.dtype == truncated.dtype == info["invalid"].dtype == torch.bool
    assert torch.equal(info["final_obs"], obs)


def test_tasks_are_sorted_and_hold_the_results_page():
    names = fastsac.tasks()
    assert names == sorted(names)
    page = {"cartpole_swingup", "reacher_hard", "cheetah_run", "walker_run", "humanoid_walk"}
    assert page <= set(names)


def test_send_and_recv_are_step(make, actions):
    one, two = make("walker_run", num_envs=2), make("walker_run", num_envs=2)
    one.reset(seed=5)
    two.reset(seed=5)
    for action in actions(one, 5):
        two.send(action)
        for ours, theirs in zip(one.step(action)[:4], two.recv()[:4], strict=True):
            assert torch.equal(ours, theirs)


def test_seed_fixes_the_run_and_seeds_differ(make, actions):
    def rollout(seed):
        env = make("reacher_hard", num_envs=3)
        obs = [env.reset(seed=seed)[0]]
        return torch.stack(obs + [env.step(a)[0] for a in actions(env, 10)])

    assert torch.equal(rollout(1), rollout(1))
    assert not torch.equal(rollout(1)[0], rollout(2)[0])


def test_reset_without_a_seed_goes_on(make):
    env = make("reacher_hard", num_envs=3, seed=4)
    first, second = env.reset()[0], env.reset()[0]
    assert not torch.equal(first, second)
    assert torch.equal(env.reset(seed=4)[0], first)


@pytest.mark.parametrize("engine", ENGINES)
def test_worlds_have_their_own_randomised_fields(engine, shared):
    env = shared("reacher_hard", 4, engine)
    obs, _ = env.reset(seed=0)
    state = env.get_state()
    assert set(state) == {"qpos", "qvel", "act", "qacc_warmstart", "geom_pos"}
    target = env.suite.model.geom("target").id
    targets = state["geom_pos"][:, target, :2]
    assert torch.unique(targets, dim=0).shape[0] == 4
    # dm_control draws the target's distance from [0.05, 0.20] m.
    assert ((targets.norm(dim=1) >= 0.05) & (targets.norm(dim=1) <= 0.2)).all()
    # to_target = target - finger: moving only the targets moves it by as much.
    moved = {"geom_pos": state["geom_pos"].clone()}
    moved["geom_pos"][:, target, 0] += 0.01
    shift = env.set_state(moved) - obs
    expected = torch.tensor([0, 0, 0.01, 0, 0, 0]).expand(4, 6)
    torch.testing.assert_close(shift, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_state_round_trip_repeats_the_future(engine, shared, actions):
    env = shared("reacher_hard", 4, engine)
    env.reset(seed=0)
    for action in actions(env, 5):
        env.step(action)
    state = env.get_state()
    first = [env.set_state(state), *(env.step(a)[0] for a in actions(env, 5, seed=1))]
    again = [env.set_state(state), *(env.step(a)[0] for a in actions(env, 5, seed=1))]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    restored = env.set_state({}) is not None and env.get_state()
    assert set(restored) == set(state)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_huge_state_costs_its_episode_only(engine, shared, actions):
    """Of finite numbers; test_divergence.py has those that are none."""
    env = shared("reacher_hard", 4, engine)
    runs = {}
    for position in (0.0, 1e30):
        env.reset(seed=0)
        qpos = env.get_state()["qpos"]
        qpos[2, 0] += position
        env.set_state({"qpos": qpos})
        runs[position] = [env.step(action) for action in actions(env, 10)]
    others = [0, 1, 3]
    for step, (ours, theirs) in enumerate(zip(runs[1e30], runs[0.0], strict=True)):
        for a, b in zip(ours[:4], theirs[:4], strict=True):
            assert torch.equal(a[others], b[others])
        assert ours[0].isfinite().all() and ours[4]["final_obs"].isfinite().all()
        assert ours[4]["invalid"].tolist() == [False, False, step == 0, False]
        assert bool(ours[3][2]) == (step == 0)
        if step == 0:
            assert ours[1][2] == 0 and (ours[4]["final_obs"][2] == 0).all()


def test_nan_action_costs_its_episode_only(make):
    env = make("cheetah_run", num_envs=3, engine="native")
    env.reset(seed=0)
    action = torch.zeros(3, 6)
    action[1, 4] = float("nan")
    obs, reward, _, truncated, info = env.step(action)
    assert info["invalid"].tolist() == truncated.tolist() == [False, True, False]
    assert obs.isfinite().all() and reward.isfinite().all()


def test_spread_clocks_spread_the_episode_ends(make):
    env = make("cartpole_swingup", num_envs=4, engine="native")
    _, info = env.reset(seed=0, options={"spread_clocks": True})
    assert info["clocks"].tolist() == [0, 250, 500, 750]
    action = torch.zeros(4, 1)
    ends = {
        w: i + 1 for i in range(1000) for w in torch.nonzero(env.step(action)[3])[:, 0].tolist()
    }
    assert ends == {0: 1000, 1: 750, 2: 500, 3: 250}


@pytest.mark.parametrize(
    ("action", "error", "words"),
    [
        (torch.zeros(3, 6), ValueError, r"\(2, 6\), got \(3, 6\)"),
        (torch.zeros(2, 5), ValueError, r"\(2, 6\), got \(2, 5\)"),
        (torch.zeros(6), ValueError, "shape"),
        (torch.zeros(2, 6, dtype=torch.float64), TypeError, "float64"),
        (np.zeros((2, 6), np.float32), TypeError, "ndarray"),
        (torch.zeros(2, 6, device="meta"), ValueError, "on cpu, got meta"),
    ],
)
def test_bad_actions_get_a_sentence(action, error, words, make):
    env = make("cheetah_run", num_envs=2)
    env.reset()
    with pytest.raises(error, match=words):
        env.step(action)
    env.step(torch.zeros(2, 6))  # and nothing is lost


def test_calls_out_of_order_get_a_sentence(make):
    env = make("reacher_easy", num_envs=2)
    action = torch.zeros(2, 2)
    for call in (lambda: env.step(action), env.get_state, lambda: env.set_state({})):
        with pytest.raises(RuntimeError, match="reset"):
            call()
    env.reset()
    with pytest.raises(RuntimeError, match="send"):
        env.recv()
    env.send(action)
    with pytest.raises(RuntimeError, match="recv"):
        env.send(action)
    with pytest.raises(RuntimeError, match="recv"):
        env.get_state()
    env.recv()
    env.close()
    for call in (env.reset, lambda: env.step(action), env.get_state):
        with pytest.raises(RuntimeError, match="closed"):
            call()
    env.close()


DRESSES = [{}, {"frame_stack": 3}, {"action_repeat": 2}, {"autoreset_mode": "NEXT_STEP"}]


@pytest.mark.parametrize("dress", DRESSES, ids=str)
@pytest.mark.parametrize("array", ["torch", "numpy"])
def test_what_it_returns_is_the_callers(make, dress, array):
    """Written over, it changes nothing of what else there is or comes."""
    env, untouched = (make("reacher_easy", 2, array=array, **dress) for _ in range(2))
    action = torch.zeros(2, 2) if array == "torch" else np.zeros((2, 2), np.float32)
    obs, expected = (one.reset(seed=0)[0] for one in (env, untouched))
    for _ in range(3):
        obs[:] = 7
        (obs, *_, info), (expected, *_, of_expected) = env.step(action), untouched.step(action)
        assert (obs == expected).all()
        obs[:] = 8
        assert (info["final_obs"] == of_expected["final_obs"]).all()
        info["final_obs"][:] = 9


@pytest.mark.parametrize("engine", ENGINES)
def test_actions_may_be_overwritten_after_send(engine, shared, actions):
    env = shared("reacher_hard", 4, engine)
    env.reset(seed=0)
    kept = [env.step(action)[0] for action in actions(env, 5)]
    env.reset(seed=0)
    for action, expected in zip(actions(env, 5), kept, strict=True):
        env.send(action)
        action.fill_(float("nan"))
        assert torch.equal(env.recv()[0], expected)


def test_a_failed_step_can_be_left_behind_by_reset(make, monkeypatch):
    env = make("reacher_easy", num_envs=2, engine="native")
    first = env.reset(seed=0)[0]

    def fails(*_):
        raise RuntimeError("mujoco gave up")

    with monkeypatch.context() as patch:
        patch.setattr(env.engine, "_step", fails)
        with pytest.raises(RuntimeError, match="gave up"):
            env.step(torch.zeros(2, 2))
    with pytest.raises(RuntimeError, match="reset"):
        env.step(torch.zeros(2, 2))
    assert torch.equal(env.reset(seed=0)[0], first)
    env.step(torch.zeros(2, 2))


def test_bad_states_get_a_sentence(make):
    env = make("reacher_easy", num_envs=2)
    env.reset()
    with pytest.raises(ValueError, match=r"qpos must be \(2, 2\), got \(2, 3\)"):
        env.set_state({"qpos": np.zeros((2, 3))})
    with pytest.raises(ValueError, match="unknown state field 'body_mass'"):
        env.set_state({"body_mass": np.zeros((2, 3))})
    with pytest.raises(ValueError, match="reset option"):
        env.reset(options={"spread": True})
    with pytest.raises(ValueError, match="seed"):
        env.reset(seed=-1)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (dict(task="walker_rum"), UnknownTask, "did you mean walker_run"),
        (dict(task="walker_run", num_envs=0), ValueError, "num_envs"),
        (dict(task="walker_run", num_envs=2.5), ValueError, "num_envs"),
        (dict(task="walker_run", seed=-1), ValueError, "seed"),
        (dict(task="walker_run", engine="bullet"), EngineUnavailable, "auto, native, warp, mjx"),
        (dict(task="walker_run", device="gpu0"), EngineUnavailable, "device"),
        (dict(task="walker_run", device="meta"), EngineUnavailable, "cpu or cuda"),
    ],
)
def test_bad_arguments_of_make_get_a_sentence(arguments, error, words):
    with pytest.raises(error, match=words):
        fastsac.make(**arguments)


@pytest.mark.slow
def test_egl_and_triton_live_in_one_process():
    """MuJoCo's EGL backend and triton, which torch imports with its first optimizer."""
    code = (
        "import fastsac, torch; fastsac.make('cartpole_swingup').reset();"
        "fastsac.SAC(3, 1); import triton; print('alive')"
    )
    environment = os.environ | {"MUJOCO_GL": "egl"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    if "EGL" in done.stderr and done.returncode == 1:
        pytest.skip("this machine has no EGL")
    assert done.returncode == 0 and done.stdout.endswith("alive\n"), done.stderr[-500:]
