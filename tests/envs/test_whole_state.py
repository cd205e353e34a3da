"""All that MuJoCo counts as a state: begun with, stepped, saved and restored as in dm_control."""

import io
import itertools

import numpy as np
import pytest
import torch

from fastsac.envs import registry
from tests.envs.random_tasks import EPISODE, episode, register

WORLDS = 2
SEEDS = [0, 1, 2, 4, 5, 10]
SEEDS += [pytest.param(seed, marks=pytest.mark.slow) for seed in range(12, 24)]
OBS = dict(rtol=3e-7, atol=1e-6)  # of the engine's float32


@pytest.fixture(autouse=True)
def own_table(monkeypatch):
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))


def flat(step):
    return np.concatenate([np.ravel(x) for x in step.observation.values()])


def follow(env, references, actions):
    """Steps env and dm_control side by side, through the episodes' ends; returns how many ended."""
    rows = itertools.count(WORLDS)
    low, high = env.suite.action_low, env.suite.action_high
    for action in actions:
        obs, reward, _, truncated, info = env.step(action)
        for world, (reference, _) in enumerate(references):
            control = (high + low) / 2 + (high - low) / 2 * action[world].numpy().astype(np.float64)
            step = reference.step(control)
            np.testing.assert_allclose(info["final_obs"][world], flat(step), **OBS)
            np.testing.assert_allclose(reward[world], step.reward, **OBS)
            if truncated[world]:
                references[world] = episode(env.suite.task.full_name, 0, next(rows))
                np.testing.assert_allclose(obs[world], flat(references[world][1]), **OBS)
    return next(rows) - WORLDS


@pytest.mark.parametrize("seed", SEEDS)
def test_random_tasks_are_dm_controls(seed, make, actions):
    register("drawn", seed)
    env = make("drawn", num_envs=WORLDS, engine="native")
    obs, _ = env.reset(seed=0, options={"spread_clocks": True})
    references = [episode("drawn", 0, world) for world in range(WORLDS)]
    for world, (_, step) in enumerate(references):
        np.testing.assert_allclose(obs[world], flat(step), **OBS)
    assert follow(env, references, actions(env, EPISODE + EPISODE // 3)) == 2
    for name, values in env.get_state().items():
        for world, (reference, _) in enumerate(references):
            physics = reference.physics
            owner = physics.data if name in env.suite.state_fields else physics.model
            if name.startswith("opt."):
                owner = physics.model.opt
            expected = getattr(owner, name.removeprefix("opt."))
            np.testing.assert_allclose(values[world], expected, rtol=1e-9, atol=1e-9, err_msg=name)

    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    state = env.get_state()
    first = [env.step(action) for action in actions(env, EPISODE, seed=1)]
    assert any(step[3].any() for step in first)
    file.seek(0)
    other = make("drawn", num_envs=WORLDS, engine="native")
    other.load_state_dict(torch.load(file, weights_only=True))
    again = [other.step(action) for action in actions(env, EPISODE, seed=1)]
    for one, two in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:4], two[:4], strict=True))
    env.set_state(state)
    end = next(i for i, step in enumerate(first) if step[3].any())
    assert end > 3
    for step, action in zip(first[:end], actions(env, end, seed=1), strict=True):
        assert torch.equal(env.step(action)[0], step[0])
