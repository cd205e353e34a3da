"""action_repeat, frame_stack and reward_fn, beside dm_control and the env without them."""

import copy

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import fastsac
from fastsac.envs.suite import Suite

TASK = "pendulum_swingup"
ENGINES = ["native", *(pytest.param(name, marks=pytest.mark.slow) for name in ("warp", "mjx"))]
NAN = float("nan")


def height(physics):
    return physics.xpos[1, 2] + 2 * physics.time


@pytest.mark.parametrize("repeat", [2, 3])
def test_a_repeated_action_is_dm_controls_steps_in_turn(make, dm, repeat):
    env, theirs = make("cartpole_swingup", 1, action_repeat=repeat), dm("cartpole_swingup", 1)
    env.reset()
    theirs.reset(1)
    env.set_state(theirs.state())
    random = np.random.default_rng(0)
    for _ in range(20):
        action = random.uniform(-1, 1, 1).astype(np.float32)
        obs, reward, *_ = env.step(torch.from_numpy(action)[None])
        steps = [theirs.step(action) for _ in range(repeat)]
        np.testing.assert_allclose(obs[0], steps[-1][0], rtol=1e-5, atol=1e-6)
        assert reward.item() == pytest.approx(sum(step[1] for step in steps), rel=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_episode_ends_within_a_step(make, engine):
    """1000 control steps are 333 steps of three and one of one."""
    env = make(TASK, 2, engine, action_repeat=3)
    assert env.max_episode_steps == 334 and env.metadata["render_fps"] == 17
    env.reset(seed=4, options={"spread_clocks": True})
    for step in range(1, 168):  # the second world begins 167 steps old: 501 control steps
        obs, _, _, truncated, info = env.step(torch.full((2, 1), 0.3))
        assert truncated.tolist() == [False, step == 167]
    assert env.engine.clocks().tolist() == [167, 0]
    assert not torch.equal(obs[1], info["final_obs"][1])
    assert torch.equal(obs[0], info["final_obs"][0])


def test_no_reward_after_the_end(make):
    one = make(TASK, 1, reward_fn=lambda physics: 1.0)
    three = make(TASK, 1, reward_fn=lambda physics: 1.0, action_repeat=3)
    one.reset(seed=0)
    three.reset(seed=0)
    rewards = [three.step(torch.zeros(1, 1))[1].item() for _ in range(335)]
    assert rewards == [3.0] * 333 + [1.0, 3.0]
    assert sum(rewards[:334]) == sum(one.step(torch.zeros(1, 1))[1].item() for _ in range(1_000))


@pytest.mark.parametrize("mode", ["SAME_STEP", "NEXT_STEP", "DISABLED"])
def test_a_repeated_env_resets_as_its_mode_says(make, mode):
    env = make(TASK, 2, action_repeat=4, autoreset_mode=mode)
    env.reset(seed=1)
    for _ in range(250):
        obs, _, _, truncated, info = env.step(torch.zeros(2, 1))
    assert truncated.all()
    assert torch.equal(obs, info["final_obs"]) == (mode != "SAME_STEP")
    if mode == "DISABLED":
        obs, info = env.reset(options={"reset_mask": np.array([True, False])})
        assert info["clocks"].tolist() == [0, 250]
    elif mode == "NEXT_STEP":
        _, reward, _, truncated, _ = env.step(torch.zeros(2, 1))
        assert not reward.any() and not truncated.any()


def test_a_world_that_diverges_within_a_step_has_no_reward(make):
    env = make(TASK, 2, action_repeat=3)
    env.reset(seed=1)
    obs, reward, _, truncated, info = env.step(torch.tensor([[NAN], [0.0]]))
    assert info["invalid"].tolist() == truncated.tolist() == [True, False]
    assert reward[0] == 0 and not info["final_obs"][0].any() and obs.isfinite().all()


@pytest.mark.parametrize("engine", ENGINES)
def test_frames_are_an_episodes_last_observations(make, engine):
    env, plain = make(TASK, 2, engine, frame_stack=3), make(TASK, 2, engine)
    options = {"spread_clocks": True}
    seen = [plain.reset(seed=5, options=options)[0]] * 3
    obs, _ = env.reset(seed=5, options=options)
    assert env.obs_dim == 9 and obs in env.observation_space
    assert torch.equal(obs, torch.cat(seen, 1))
    for i in range(502):  # past the end of the second world's episode
        action = torch.full((2, 1), 0.5)
        obs, reward, _, truncated, info = env.step(action)
        expected = plain.step(action)
        assert torch.equal(reward, expected[1]) and torch.equal(truncated, expected[3])
        last = torch.cat([*seen[1:], expected[4]["final_obs"]], 1)
        assert torch.equal(info["final_obs"], last)
        seen = [*seen[1:], expected[0]]
        begins = expected[3][:, None]
        seen = [torch.where(begins, expected[0], frame) for frame in seen]
        assert torch.equal(obs, torch.cat(seen, 1)), i


def test_a_stacked_state_goes_on(make, goes_on):
    for found, expected in goes_on(make(TASK, 4, frame_stack=3, action_repeat=2)):
        for a, b in zip(found[:4], expected[:4], strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_reward_of_ones_own(make, engine):
    env = make(TASK, 2, engine, reward_fn=height)
    env.reset(seed=3)
    for _ in range(3):
        reward = env.step(torch.zeros(2, 1))[1]
    assert env.suite.task.full_name == TASK and fastsac.tasks().count(TASK) == 1
    plain = make(TASK, 2, engine)
    plain.reset(seed=3)
    assert not torch.equal(plain.step(torch.zeros(2, 1))[1], reward)


def test_it_is_read_where_dm_control_reads_its_own(make, dm):
    env = make("walker_run", 1, reward_fn=lambda physics: physics.body("torso").xpos[2])
    theirs = dm("walker_run", 2)
    env.reset()
    env.set_state(theirs.state())
    reward = env.step(torch.full((1, 6), 0.4))[1].item()
    theirs.step(np.full(6, 0.4))
    assert reward == pytest.approx(theirs.physics.named.data.xpos["torso", "z"], rel=1e-6)


def test_copies_and_gymnasiums_envs_have_them(make):
    import gymnasium

    env = make(TASK, 2, action_repeat=2, frame_stack=3, reward_fn=height)
    again = copy.copy(env)
    assert (again.max_episode_steps, again.obs_dim) == (500, 9)
    again.close()
    vec = gymnasium.make_vec(f"fastsac.envs:fastsac/{TASK}-v0", 2, action_repeat=300, frame_stack=2)
    vec.reset(seed=0)
    for _ in range(4):
        info = vec.step(vec.action_space.sample())[4]
    assert info["final_info"]["episode"]["l"].tolist() == [4, 4]
    vec.close()


def test_frames_of_parts():
    nothing = np.zeros(1)
    suite = Suite(None, None, 1, 1, {"a": (2,), "b": ()}, nothing, nothing, frames=2)
    assert suite.obs_dim == 6 and suite.shapes == {"a": (2, 2), "b": (2,)}
    parts = suite.split(np.arange(6))
    assert parts["a"].tolist() == [[0, 1], [3, 4]] and parts["b"].tolist() == [2, 5]


@pytest.mark.parametrize(
    "kwargs, error, sentence",
    [
        ({"action_repeat": 0}, ValueError, "action_repeat must be an integer of at least 1"),
        ({"frame_stack": 1.5}, ValueError, "frame_stack must be an integer of at least 1"),
        ({"reward_fn": 3}, ValueError, "reward_fn must be a function, got int"),
        ({"reward_fn": lambda physics: physics.qvel * 0 + jnp.ones(3)}, TypeError, "a scalar"),
    ],
)
def test_refusals(make, kwargs, error, sentence):
    with pytest.raises(error, match=sentence):
        make(TASK, 1, **kwargs)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_ended_world_stays_where_its_episode_ended(make, engine):
    """Five control steps are a step of three and one of two."""
    limit = {"time_limit": 0.1, "autoreset_mode": "DISABLED"}
    env, plain = make(TASK, 2, engine, action_repeat=3, **limit), make(TASK, 2, engine, **limit)
    for one, steps in ((env, 2), (plain, 5)):
        one.reset(seed=3)
        for _ in range(steps):
            one.step(torch.ones(2, 1))
    expected = plain.get_state()["qpos"]
    assert torch.equal(env.get_state()["qpos"], expected)
    again = make(TASK, 2, engine, action_repeat=3, **limit)
    again.load_state_dict(env.state_dict())
    assert torch.equal(again.get_state()["qpos"], expected)
    env.set_state({"qvel": np.zeros((2, 1))})
    assert torch.equal(env.get_state()["qpos"], expected)
    again.reset(options={"reset_mask": np.array([True, False])})
    now = again.get_state()["qpos"]
    assert now[1] == expected[1] and now[0] != expected[0]


def test_a_reward_that_reads_the_time_goes_on(make):
    env, other = (make(TASK, 2, reward_fn=lambda physics: physics.time) for _ in range(2))
    env.reset(seed=0)
    for _ in range(5):
        env.step(torch.zeros(2, 1))
    other.load_state_dict(env.state_dict())
    assert other.step(torch.zeros(2, 1))[1].tolist() == pytest.approx([0.12, 0.12])
    assert "time" not in make(TASK, 1).suite.state_fields
