"""The Warp engine on Warp's CPU device, against the native engine, which is dm_control."""

import dataclasses
import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest
import torch

import fastsac
from fastsac.envs import EngineUnavailable
from fastsac.envs.engines.native import NativeEngine
from fastsac.envs.registry import find
from fastsac.envs.suite import STATE, load_suite
from tests.envs.free_run import FREE_RUN, OF_WARP, require_float32

pytest.importorskip("warp")
from fastsac.envs.engines import warp_physics  # noqa: E402
from fastsac.envs.engines.warp import WarpEngine  # noqa: E402

# Plain; per-world places of geoms; an elliptic cone and per-world sites; contacts; RK4.
QUICK = ("pendulum_swingup", "reacher_hard", "finger_turn_hard", "cheetah_run", "cartpole_swingup")
TASKS = [task for task in fastsac.tasks() if not find(task).warp_refusal]
CASES = [pytest.param(task, marks=() if task in QUICK else pytest.mark.slow) for task in TASKS]
BATCH, STEPS = 4, 10


@pytest.mark.parametrize("task", CASES)
def test_a_free_run_in_float32(task, make, actions):
    _require_a_free_run(task, make, actions)


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.parametrize("task", TASKS)
def test_a_free_run_on_the_gpu(task, make, actions):
    _require_a_free_run(task, make, actions)


def _require_a_free_run(task, make, actions):
    native, warp = (make(task, num_envs=BATCH, engine=e) for e in ("native", "warp"))
    # The first observations are C MuJoCo's own.
    assert torch.equal(native.reset(seed=3)[0], warp.reset(seed=3)[0].cpu())
    qpos, obs = [], []
    *run, last = actions(native, STEPS + 1)
    for i, action in enumerate(run):
        theirs = native.step(action)
        ours = [x.cpu() for x in warp.step(action.to(warp.device))[:4]]
        qpos.append(_largest(_qpos(warp) - _qpos(native)))
        obs.append(_largest(ours[0] - theirs[0]))
        # A step from the same state; in a run on the ground float32's error grows.
        if i == 0 or not torch.stack([*qpos]).max() > 1e-4:
            torch.testing.assert_close(ours[1], theirs[1], atol=1e-4, rtol=0)
        for flags in zip(ours[2:4], theirs[2:4], strict=True):
            assert torch.equal(*flags)
    errors = {
        k: np.max([np.asarray(x) for x in v], axis=0) for k, v in (("qpos", qpos), ("obs", obs))
    }
    print(task, errors)
    require_float32(task, errors, FREE_RUN | OF_WARP)
    # A percent more of the actions is told apart: the tolerance is not a blank cheque.
    state = warp.get_state()
    moved = []
    for factor in (1.0, 1.01):
        warp.set_state(state)
        warp.step(factor * last.to(warp.device))
        moved.append(_qpos(warp))
    assert (moved[0] - moved[1]).abs().max() > 1e-7


def _qpos(env):
    return env.get_state()["qpos"].cpu()


def _largest(difference: torch.Tensor) -> torch.Tensor:
    return difference.abs().amax(dim=1)


def test_what_is_refused_is_declared():
    for task in fastsac.tasks():
        refusal = find(task).warp_refusal
        assert bool(refusal) == (task == "point_mass_hard")
        if refusal:
            with pytest.raises(EngineUnavailable, match=f"MuJoCo Warp cannot .*{refusal}"):
                fastsac.make(task, engine="warp")


@pytest.fixture(scope="module")
def pendulums():
    """Warp's and the native engine: eight worlds with episodes of four steps."""
    suite = dataclasses.replace(load_suite(find("pendulum_swingup")), max_episode_steps=4)
    engines = WarpEngine(suite, 8), NativeEngine(suite, 8)
    yield engines
    for engine in engines:
        engine.close()


def test_resets_alike_through_a_pool_that_is_renewed(pendulums):
    """400 resets through a pool of 320 rows: each episode begins with the sequence's next state."""
    for engine in pendulums:
        engine.reset(5, np.array([0, 1, 1, 2, 3, 0, 2, 3]))
    generator, starts = torch.Generator().manual_seed(0), []
    for _ in range(200):
        action = torch.rand(8, 1, generator=generator) * 2 - 1
        for engine in pendulums:
            engine.send(action)
        ours, theirs = (engine.recv() for engine in pendulums)
        for name in ("terminated", "truncated", "invalid", "done"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        for name in ("obs", "final_obs", "reward"):
            torch.testing.assert_close(
                getattr(ours, name), getattr(theirs, name), atol=2e-5, rtol=0
            )
        starts.append(ours.obs[ours.done])
        assert torch.equal(starts[-1], theirs.obs[theirs.done])
    starts = torch.cat(starts)
    assert len(starts) == 400 and torch.unique(starts, dim=0).shape == starts.shape


@pytest.mark.parametrize("task", ["reacher_hard", "finger_turn_hard"])
def test_an_episode_that_follows_has_the_places_of_its_own(task, actions):
    """Places of geoms and sites a world, which a reset in the middle of the others must bring."""
    suite = dataclasses.replace(load_suite(find(task)), max_episode_steps=3)
    engines = [kind(suite, BATCH) for kind in (WarpEngine, NativeEngine)]
    for engine in engines:
        engine.reset(3, np.array([0, 1, 2, 2]))
    before = engines[0].get_state()
    for i, action in enumerate(actions(SimpleNamespace(num_envs=BATCH, action_dim=2), 9)):
        for engine in engines:
            engine.send(action)
        ours, theirs = (engine.recv() for engine in engines)
        assert torch.equal(ours.done, theirs.done) and ours.done.any()
        assert torch.equal(ours.obs[ours.done], theirs.obs[ours.done])
        torch.testing.assert_close(ours.final_obs, theirs.final_obs, atol=2e-4, rtol=1e-5)
        torch.testing.assert_close(ours.reward, theirs.reward, atol=1e-4, rtol=0)
        state, expected = (engine.get_state() for engine in engines)
        for name in suite.model_fields:
            assert torch.equal(state[name], expected[name].float()), name
            same = (state[name] == before[name]).flatten(1).all(dim=1)
            assert torch.equal(same, ~ours.done), (name, i)
        before = state
    for engine in engines:
        engine.close()


def test_a_task_that_ends_its_episodes_has_a_start_for_each():
    ends = dataclasses.replace(
        find("pendulum_swingup"), terminate=lambda physics: physics.qpos[0] == physics.qpos[0]
    )
    engine = WarpEngine(load_suite(ends), 64)
    starts = [engine.reset(3, np.zeros(64, np.int64))]
    for _ in range(12):
        engine.send(torch.zeros(64, 1))
        step = engine.recv()
        assert step.terminated.all() and not step.truncated.any()
        starts.append(step.obs)
    engine.close()
    starts = torch.cat(starts)
    assert torch.unique(starts, dim=0).shape == starts.shape


@pytest.mark.parametrize("task", ["reacher_hard", "cheetah_run"])
def test_goes_on_to_the_last_bit(task, shared, goes_on):
    for found, expected in goes_on(shared(task, BATCH, "warp")):
        for ours, theirs in zip(found[:4], expected[:4], strict=True):
            assert torch.equal(ours, theirs)


def test_equal_seeds_and_actions_have_equal_futures(make, actions):
    envs = [make("cheetah_run", num_envs=BATCH, engine="warp") for _ in range(2)]
    for env in envs:
        env.reset(seed=1)
    for action in actions(envs[0], 30):
        for ours, theirs in zip(*(env.step(action)[:2] for env in envs), strict=True):
            assert torch.equal(ours, theirs)


def test_a_state_is_what_was_set_and_its_observation_the_steps(shared, actions):
    """Per-world places of geoms go with it: reacher's target is one, which Warp takes for fixed."""
    env, native = shared("reacher_hard", BATCH, "warp"), shared("reacher_hard", BATCH, "native")
    native.reset(seed=8)
    env.reset(seed=2)
    state = native.get_state()
    assert {*state} == {*STATE, "geom_pos"} == {*env.get_state()}
    torch.testing.assert_close(env.set_state(state), native.set_state(state), rtol=0, atol=1e-6)
    for name, value in env.get_state().items():
        assert torch.equal(value, state[name].float()), name
    for action in actions(env, 3):
        torch.testing.assert_close(env.step(action)[0], native.step(action)[0], rtol=0, atol=5e-6)


def test_a_state_is_set_while_the_next_initial_states_are_drawn(pendulums, monkeypatch):
    """Both ask the one C MuJoCo for observations, the pool from a thread of its own."""
    random, pendulum = np.random.default_rng(0), pendulums[0]
    pendulum.reset(0, np.zeros(8, np.int64))
    width = {"qpos": 1, "qvel": 1, "act": 0, "qacc_warmstart": 1}
    rows = [{k: random.uniform(-1, 1, (64, n)) for k, n in width.items()} for _ in range(2)]
    expected = [pendulum._completed(row) for row in rows]
    observe = pendulum._c_mujoco._observe

    def observe_late():
        time.sleep(0.05)  # the other thread's turn
        return observe()

    monkeypatch.setattr(pendulum._c_mujoco, "_observe", observe_late)
    with ThreadPoolExecutor(2) as threads:
        for _ in range(3):
            for found, right in zip(threads.map(pendulum._completed, rows), expected, strict=True):
                for name, value in right.items():
                    np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_no_copy_between_warp_and_torch(shared):
    engine = shared("reacher_hard", BATCH, "warp").engine
    physics = engine.physics
    for name, view in physics.views.items():
        array = getattr(physics.model if name in physics.model_fields else physics.data, name)
        assert view.data_ptr() == array.ptr or not view.numel(), name


@pytest.mark.parametrize(("sizes", "kind"), [((1, 40), "contactfull"), ((40, 1), "cnstrfull")])
def test_a_buffer_that_is_too_small_is_counted_and_said_once(
    sizes, kind, make, monkeypatch, caplog
):
    monkeypatch.setattr(warp_physics, "_buffer_sizes", lambda suite: sizes)
    env = make("walker_walk", num_envs=8, engine="warp")
    env.reset(seed=0)
    for _ in range(40):  # they fall
        env.step(torch.zeros(8, 6))
    assert set(env.warnings) == {kind} and 1 <= env.warnings[kind] <= 8
    for _ in range(2):
        env.engine.check()
    [said] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert said.startswith(f"walker_walk: MuJoCo Warp warns of {kind}")


@pytest.mark.parametrize("task", ["cheetah_run", pytest.param("dog_walk", marks=pytest.mark.slow)])
def test_there_is_room_for_what_held_actions_bring(task):
    """As a saturated policy has them; actions anew at each step need less than half of it."""
    suite = load_suite(find(task))
    contacts, constraints = warp_physics._buffer_sizes(suite)
    data, random = mujoco.MjData(suite.model), np.random.default_rng(1)
    most = np.zeros(2, int)
    for step in range(1500):
        if step % 10 == 0:
            data.ctrl[:] = suite.control(random.choice([-1.0, 1.0], suite.action_dim))
        mujoco.mj_step(suite.model, data, suite.substeps)
        most = np.maximum(most, (data.ncon, data.nefc))
    assert (most <= (contacts, constraints)).all() and most[1] > 0.2 * constraints


def test_enough_room_as_a_rule(make, actions):
    env = make("walker_walk", num_envs=8, engine="warp")
    env.reset(seed=0)
    for action in actions(env, 40):
        env.step(action)
    assert env.warnings == {}


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.parametrize("task", QUICK)
def test_the_gpu_follows_the_native_engine(task, make, actions):
    native, warp = (make(task, num_envs=64, engine=e) for e in ("native", "warp"))
    first = warp.reset(seed=3)[0]
    assert first.is_cuda and torch.equal(native.reset(seed=3)[0], first.cpu())
    for action in actions(native, 5):
        theirs, sent = native.step(action), action.cuda()
        warp.send(sent)
        sent.fill_(torch.nan)  # the caller's own again
        ours = warp.recv()
        torch.testing.assert_close(ours[0].cpu(), theirs[0], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(ours[1].cpu(), theirs[1], rtol=0, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.timeout(600)
def test_the_gpu_goes_on_within_rounding(make, actions):
    one, other = (make("cheetah_run", num_envs=64, engine="warp") for _ in range(2))
    one.reset(seed=3)
    for action in actions(one, 20):
        one.step(action.cuda())
    other.load_state_dict(one.state_dict())
    for action in actions(one, 5, seed=1):
        ours, theirs = other.step(action.cuda()), one.step(action.cuda())
        torch.testing.assert_close(ours[0], theirs[0], rtol=1e-3, atol=1e-3)


def test_a_task_may_read_the_time(make):
    task = dataclasses.replace(
        find("pendulum_swingup"), reward=lambda physics: physics.time, terminate=None
    )
    suite = dataclasses.replace(load_suite(task), max_episode_steps=3)
    engine = WarpEngine(suite, 2)
    engine.reset(0, np.array([0, 1]))
    seen = []
    for _ in range(5):
        engine.send(torch.zeros(2, 1))
        seen.append(engine.recv().reward.tolist())
    engine.close()
    step = suite.control_timestep
    expected = [[1, 1], [2, 2], [3, 1], [1, 2], [2, 3]]  # in steps of their episodes
    np.testing.assert_allclose(seen, np.array(expected) * step, rtol=1e-5)


def test_without_warp_lang(monkeypatch):
    for name in [k for k in sys.modules if k.startswith("fastsac.envs.engines.warp")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "warp", None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'fastsac\[warp\]'"):
        fastsac.make("pendulum_swingup", engine="warp")
