"""MuJoCo Playground and brax's SAC as peers: the tasks they share with us, and that they work."""

import logging
import math
import threading
from functools import partial

import pytest

pytest.importorskip("mujoco_playground")
pytest.importorskip("brax")

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import torch

from fastsac import tasks
from fastsac.bench import peers
from fastsac.bench.envs import TASKS
from fastsac.bench.harness import Unavailable
from fastsac.bench.peers import brax_sac, playground
from fastsac.envs.registry import find
from fastsac.envs.suite import load_suite

ENVS = playground.dm_control_suite.ALL_ENVS
SMALL = {
    "num_envs": 4,
    "epoch_steps": 5,
    "batch_size": 16,
    "grad_updates_per_step": 2,
    "min_replay_size": 40,
    "max_replay_size": 1000,
}

pytestmark = pytest.mark.timeout(280)


def test_names():
    names = {"cartpole_swingup": "CartpoleSwingup", "reacher_hard": "ReacherHard"}
    names |= {"cheetah_run": "CheetahRun", "walker_run": "WalkerRun"}
    names |= {"humanoid_walk": "HumanoidWalk"}
    assert {task: playground.env_name(task) for task in TASKS} == names


def test_every_one_of_its_environments_is_a_task():
    found = []
    for task in tasks():
        try:
            found.append(playground.env_name(task))
        except Unavailable as error:
            assert str(error).startswith("MuJoCo Playground has no "), task
    assert sorted(found) == sorted(ENVS)


@pytest.mark.parametrize("task", ["dog_run", "point_mass_hard", "lqr_lqr_2_1"])
def test_what_it_lacks_is_unavailable(task):
    for module, function in (("playground", "open_env"), ("brax_sac", "open_training")):
        opened = peers.opened(module, function, task, num_envs=2)
        with pytest.raises(Unavailable, match="MuJoCo Playground has no [A-Z]"):
            opened.__enter__()


@pytest.mark.parametrize("task", [task for task in TASKS if task != "reacher_hard"])
def test_one_step_is_one_of_dm_control(task):
    env, suite = playground.training_env(task, "jax"), load_suite(find(task))
    assert env.n_substeps == suite.substeps and env.action_size == suite.action_dim
    assert env.mj_model.opt.timestep == pytest.approx(suite.model.opt.timestep)
    assert env.episode_length == suite.max_episode_steps and env.action_repeat == 1
    assert env.observation_size == suite.obs_dim
    np.testing.assert_allclose(env.mj_model.body_mass, suite.model.body_mass, rtol=1e-6)


@pytest.mark.parametrize(
    "task, theirs, ours", [("reacher_hard", 4, 1), ("swimmer_swimmer6", 10, 15)]
)
def test_another_control_step_is_unavailable(task, theirs, ours):
    says = f"Playground has .'physics steps': {theirs}, .* dm_control .'physics steps': {ours}, "
    with pytest.raises(Unavailable, match=says):
        playground.training_env(task, "jax")


def test_cartpole_has_another_integrator():
    """Euler, one evaluation a step, for RK4's four: as the adapter's docstring says."""
    env = playground.training_env("cartpole_swingup", "jax")
    assert env.mj_model.opt.integrator == mujoco.mjtIntegrator.mjINT_EULER
    ours = load_suite(find("cartpole_swingup")).model
    assert ours.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4


def test_the_physics_moves_and_an_ended_world_goes_back():
    env = playground.training_env("cartpole_swingup", "jax")
    first = jax.jit(env.reset)(jax.random.split(jax.random.PRNGKey(0), 4))
    step = jax.jit(env.step)
    state = first
    for _ in range(3):
        state = step(state, jnp.ones((4, 1)))
    np.testing.assert_allclose(state.data.time, 3 * 0.01, rtol=1e-5)
    assert (state.data.qvel[:, 0] > 0.1).all(), "the carts are pushed to the right"
    assert len(np.unique(state.obs[:, 0])) == 4, "worlds differ"
    steps = jnp.array([3.0, 999.0, 998.0, 3.0])
    ended = step(state.replace(info=state.info | {"steps": steps}), jnp.ones((4, 1)))
    assert ended.done.tolist() == [0, 1, 0, 0]
    same = (np.asarray(ended.obs) == np.asarray(first.obs)).all(1)
    assert same.tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    "task", ["cartpole_swingup", pytest.param("cheetah_run", marks=pytest.mark.slow)]
)
def test_its_step_is_timed(task):
    with playground.open_env(task, 4) as work:
        count = work()
        assert count >= 3 * 4 and count % 4 == 0 and work() == count


@pytest.fixture
def warp_cache(tmp_path_factory):
    """Warp writes the kernels that it compiles to a directory of the tests."""
    warp = pytest.importorskip("warp")
    warp.config.kernel_cache_dir = str(tmp_path_factory.mktemp("warp"))


@pytest.mark.slow
def test_warp_works_without_a_gpu_too(warp_cache, capfd):
    with playground.open_env("cartpole_swingup", 4, impl="warp") as work:
        assert work() % 4 == 0
    assert "Module" not in capfd.readouterr().out


@pytest.mark.slow
def test_brax_trains_in_epochs_and_ends_its_thread(caplog):
    caplog.set_level(logging.INFO, logger="absl")
    with brax_sac.open_training("cartpole_swingup", **SMALL) as work:
        named = {thread.name for thread in threading.enumerate()}
        told = len(_told(caplog))
        steps = [work(), work()]
        told = _told(caplog)[told:]
        assert len(named) == threading.active_count()
    assert steps[0] == steps[1] > 0
    # Each epoch is 5 vector steps of 4 worlds.
    assert len(told) * 5 * 4 == sum(steps)
    losses = [float(epoch["training/critic_loss"]) for epoch in told]
    assert all(map(math.isfinite, losses)) and len(set(losses)) == len(losses)
    assert threading.active_count() == len(named) - 1


def _told(caplog):
    """The metrics of the epochs so far, which brax logs."""
    told = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    return [metrics for metrics in told if "training/critic_loss" in metrics]


def test_playgrounds_own_settings_are_taken():
    settings = brax_sac._recommended("cheetah_run", (64, 32))
    assert (settings["num_envs"], settings["batch_size"]) == (128, 512)
    assert settings["grad_updates_per_step"] == 8 and settings["learning_rate"] == 1e-3
    layers = settings["network_factory"].keywords
    assert layers == {"q_network_layer_norm": True, "hidden_layer_sizes": (64, 32)}


def loop(epochs, fails_after=math.inf, progress_fn=None):
    for epoch in range(epochs):
        if epoch > fails_after:
            raise ValueError("no memory left")
        progress_fn(10 * epoch, {})


def test_epochs_stand_still_between_calls_and_count_steps():
    epochs = brax_sac._Epochs(partial(loop, 1000))
    assert epochs.advance(1) == 0  # before the first epoch
    assert epochs.advance(3) == 30 and epochs.advance(1) == 10
    epochs.close()
    assert not epochs._thread.is_alive()


def test_what_the_loop_raises_is_raised_at_work_again_and_again():
    epochs = brax_sac._Epochs(partial(loop, 1000, fails_after=2))
    epochs.advance(3)
    for _ in range(2):
        with pytest.raises(ValueError, match="no memory left"):
            epochs.advance(1)
    epochs.close()
    assert not epochs._thread.is_alive()


def test_epochs_closed_before_they_began():
    epochs = brax_sac._Epochs(partial(loop, 1000))
    epochs.close()
    assert not epochs._thread.is_alive() and epochs._steps == 0


def test_jax_and_torch_must_use_the_same_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: jax.default_backend() == "cpu")
    with pytest.raises(Unavailable, match="jax runs on"):
        playground.training_env("cartpole_swingup", "jax")
