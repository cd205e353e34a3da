"""An env that goes on from another's state_dict: the same steps to the last bit."""

import io

import pytest
import torch

import fastsac
from fastsac.envs.registry import find

QUICK = (
    "cartpole_swingup",  # RK4
    "reacher_hard",  # a model field a world
    "lqr_lqr_2_1",  # a model a world, termination
    "hopper_hop",  # touch sensors
    "humanoid_run",  # contacts
)
CASES = [
    *(("native", task, task in QUICK) for task in fastsac.tasks()),
    # On a CPU; a GPU adds contacts in an order that differs from run to run.
    *(("warp", task, task == "reacher_hard") for task in QUICK if not find(task).warp_refusal),
]
WORLDS = 5


def actions(env, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(steps, env.num_envs, env.action_dim, generator=generator) * 2 - 1


def stored(state):
    """As a checkpoint would hold it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_continues(env, other, steps):
    other.load_state_dict(stored(env.state_dict()))
    for action in actions(env, steps, 1):
        expected, found = env.step(action), other.step(action)
        for a, b in zip(expected[:4], found[:4], strict=True):
            assert torch.equal(a, b)
        assert torch.equal(expected[4]["final_obs"], found[4]["final_obs"])


@pytest.mark.parametrize(
    ("engine", "task"),
    [pytest.param(e, t, marks=() if quick else pytest.mark.slow) for e, t, quick in CASES],
)
def test_another_env_goes_on(engine, task, few_states_ahead):
    if engine == "warp":
        pytest.importorskip("warp")
    env, other = (fastsac.make(task, WORLDS, engine, seed=s) for s in (3, 4))
    env.reset(options={"spread_clocks": True})
    limit = env.max_episode_steps
    for action in actions(env, min(limit // WORLDS - 20, 180), 0):  # before an episode's end
        env.step(action)
    other.reset()
    assert_continues(env, other, 30)  # and beyond it
    assert torch.equal(env.reset()[0], other.reset()[0])
    env.close()
    other.close()


def test_nothing_is_shared():
    env = fastsac.make("cartpole_swingup", 2, "native")
    env.reset()
    state = env.state_dict()
    before = stored(state)
    for action in actions(env, 5, 0):
        env.step(action)
    now, then = state["engine"]["state"], before["engine"]["state"]
    assert all(torch.equal(now[k], then[k]) for k in then)


def test_a_state_dict_needs_a_reset_and_no_step_under_way():
    env = fastsac.make("cartpole_swingup", 2, "native")
    with pytest.raises(RuntimeError, match="reset"):
        env.state_dict()
    env.reset()
    state = env.state_dict()
    env.send(torch.zeros(2, 1))
    with pytest.raises(RuntimeError, match="recv"):
        env.state_dict()
    env.load_state_dict(state)  # the step under way is dropped
    env.step(torch.zeros(2, 1))
    env.close()
    with pytest.raises(RuntimeError, match="closed"):
        env.load_state_dict(state)


OTHERS = {
    "num_envs": ({"num_envs": 3}, "num_envs 2 for 3"),
    "task": ({"task": "cartpole_balance"}, "task 'pendulum_swingup' for 'cartpole_balance'"),
    "action_repeat": ({"action_repeat": 2}, "substeps 1 for 2"),
    "frame_stack": ({"frame_stack": 2}, "frame_stack 1 for 2"),
    "parts": ({"task": "pendulum_swingup", "pixels": (8, 8)}, "parts 'orientation"),
}


@pytest.mark.parametrize(("changed", "words"), OTHERS.values(), ids=OTHERS.keys())
def test_a_state_of_another_env_is_refused(changed, words, make):
    kind = {"task": "pendulum_swingup", "num_envs": 2}
    env, other = make(**kind), make(**kind | changed)
    env.reset(seed=0)
    other.reset(seed=1)
    before = other.get_state()["qpos"].clone()
    with pytest.raises(ValueError, match=f"the state is of another env: .*{words}"):
        other.load_state_dict(env.state_dict())
    assert torch.equal(other.get_state()["qpos"], before)
