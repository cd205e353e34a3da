"""dm_env's own checks, and code written for dm_control's environments."""

import dm_env
import numpy as np
import pytest
from absl.testing import absltest
from dm_control import suite
from dm_env import test_utils

import fastsac
from fastsac.adapters.dm_env import Environment


class DmEnvsOwnChecks(test_utils.EnvironmentTestMixin, absltest.TestCase):
    def make_object_under_test(self):
        return Environment("walker_run", seed=0)

    def make_action_sequence(self):
        for _ in range(1_005):  # beyond an episode's end
            yield self.make_action()


@pytest.fixture
def world():
    made = []

    def build(*args, **kwargs):
        made.append(Environment(*args, **kwargs))
        return made[-1]

    yield build
    for env in made:
        env.close()


@pytest.mark.usefixtures("few_states_ahead")
@pytest.mark.parametrize("task", ["walker_run", "manipulator_bring_ball", "lqr_lqr_2_1"])
def test_specs_and_observations_have_dm_controls_names_and_shapes(world, task):
    env, theirs = world(task, seed=0), suite.load(*task.split("_", 1))
    specs, expected = env.observation_spec(), theirs.observation_spec()
    assert list(specs) == list(expected)
    assert [s.shape for s in specs.values()] == [s.shape for s in expected.values()]
    assert env.action_spec().shape == theirs.action_spec().shape
    assert env.reward_spec() == theirs.reward_spec()
    observation = env.reset().observation
    for name, spec in specs.items():
        spec.validate(observation[name])


def test_parts_hold_what_dm_control_puts_there(world):
    env = world("walker_run", seed=0)
    env.reset()
    theirs = suite.load("walker", "run")
    theirs.reset()
    with theirs.physics.reset_context():
        state = env._env._worlds.get_state()
        theirs.physics.data.qpos[:] = state["qpos"][0]
    ours, expected = env.step(np.full(6, 0.4)), theirs.step(np.full(6, 0.4))
    for name, value in expected.observation.items():
        np.testing.assert_allclose(ours.observation[name], value, rtol=1e-5, atol=1e-6)
    assert ours.reward == pytest.approx(expected.reward, rel=1e-5) and ours.discount == 1.0


def test_an_episode_in_acmes_loop(world):
    env, ours = world("pendulum_swingup", seed=4), fastsac.make("pendulum_swingup", seed=4)
    timestep, total, steps = env.reset(), 0.0, 0
    obs, _ = ours.reset()
    np.testing.assert_array_equal(np.concatenate([*timestep.observation.values()]), obs[0])
    while not timestep.last():
        timestep = env.step([0.0])
        total, steps = total + timestep.reward, steps + 1
    assert steps == 1_000 and timestep.discount == 1.0 and 0 <= total <= 1_000
    assert env.step([0.0]).first()  # the protocol: the action is ignored
    ours.close()


def test_a_diverged_world_ends_without_a_future(world):
    env = world("pendulum_swingup", seed=0)
    env.reset()
    step = env.step([np.nan])
    assert step.step_type is dm_env.StepType.LAST and step.discount == 0 and step.reward == 0


def test_the_pages_example_runs(example):
    names = example("dm_env")
    assert names["timestep"].last() and names["timestep"].discount == 1.0
    names["env"].close()


def test_episodes_differ_without_a_seed(world):
    one, two = world("pendulum_swingup"), world("pendulum_swingup")
    first = one.reset().observation["orientation"]
    assert not np.array_equal(first, two.reset().observation["orientation"])
    assert not np.array_equal(first, one.reset().observation["orientation"])


def test_pictures_are_dm_controls_pixels(world):
    try:
        env = world("walker_run", seed=0, pixels=(12, 16))
        obs = env.reset().observation
    except RuntimeError as error:
        pytest.skip(str(error))
    (spec,) = env.observation_spec().values()
    assert spec.name == "pixels" and spec.shape == (12, 16, 3) and spec.dtype == np.uint8
    spec.validate(obs["pixels"])
    assert obs["pixels"].std() > 1
