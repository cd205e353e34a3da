"""The MJX engine against the native one, which is dm_control to the last bits."""

import jax
import numpy as np
import pytest
import torch

# Largest difference of an observation after 1 and 10 control steps from the same state, float32
# against float64. Velocities carry it: float32 resolves a joint speed of 20 rad/s to 1e-6, and a
# contact step divides such an error by its time step. Measured over 4 worlds, then doubled and
# rounded up; rewards lie in [0, 1] and their error is below the observation's.
FLOAT32_OBS = {
    "cartpole_swingup": (5e-6, 5e-6),
    "reacher_hard": (5e-6, 5e-6),
    "cheetah_run": (5e-5, 5e-4),
    "walker_run": (5e-5, 5e-4),
    "humanoid_walk": (2e-3, 2e-2),
}
QUICK = ("cartpole_swingup", "reacher_hard")
CASES = [
    pytest.param(task, marks=() if task in QUICK else pytest.mark.slow) for task in FLOAT32_OBS
]
BATCH = 4


@pytest.mark.parametrize("task", CASES)
def test_follows_the_native_engine_in_float32(task, make, actions):
    native = make(task, num_envs=BATCH, engine="native")
    mjx = make(task, num_envs=BATCH, engine="mjx")
    native_obs, _ = native.reset(seed=3)
    mjx_obs, _ = mjx.reset(seed=3)
    after_one, after_ten = FLOAT32_OBS[task]
    # The pools draw the same rows, so both engines start alike.
    np.testing.assert_allclose(mjx_obs, native_obs, atol=after_one, rtol=0)
    errors = []
    for action in actions(native, 10):
        ours, theirs = mjx.step(action), native.step(action)
        errors.append(float((ours[0] - theirs[0]).abs().max()))
        np.testing.assert_allclose(ours[1], theirs[1], atol=after_ten, rtol=0)
    assert errors[0] <= after_one and max(errors) <= after_ten, errors
    # A step with other actions is told apart: the tolerance is not a blank cheque.
    other = mjx.step(-actions(native, 1, seed=9)[0])[0]
    assert (other - native.step(actions(native, 1, seed=9)[0])[0]).abs().max() > after_one
    assert mjx.engine._step._cache_size() == 1, "the step was traced more than once"


@pytest.mark.parametrize(
    "task", [pytest.param("reacher_hard"), pytest.param("cheetah_run", marks=pytest.mark.slow)]
)
def test_equals_dm_control_in_float64(task, dm, make, actions):
    reference = dm(task, seed=1)
    with jax.enable_x64(True):
        env = make(task, num_envs=1, engine="mjx")
        env.reset()
        env.set_state(reference.state())
        for action in actions(env, 50):
            obs, reward, *_ = env.step(action)
            expected_obs, expected_reward, _ = reference.step(action[0].numpy())
            # float32 rounding of what is handed out.
            np.testing.assert_allclose(obs[0], expected_obs, rtol=3e-7, atol=1e-7)
            np.testing.assert_allclose(reward[0], expected_reward, atol=1e-7)
        qpos = env.get_state()["qpos"][0]
    np.testing.assert_allclose(qpos, reference.physics.data.qpos, rtol=0, atol=1e-10)


@pytest.fixture
def short_episodes():
    """Both engines with episodes of 7 steps, started with spread clocks from one seed."""
    import dataclasses

    from fastsac.envs.engines.mjx import MjxEngine
    from fastsac.envs.engines.native import NativeEngine
    from fastsac.envs.registry import find
    from fastsac.envs.suite import load_suite

    suite = dataclasses.replace(load_suite(find("reacher_hard")), max_episode_steps=7)
    engines = [NativeEngine(suite, 5), MjxEngine(suite, 5)]
    for engine in engines:
        engine.reset(11, np.array([0, 1, 1, 4, 6]))
    yield engines
    for engine in engines:
        engine.close()


def test_resets_alike(short_episodes):
    native, mjx = short_episodes
    generator = torch.Generator().manual_seed(0)
    ended = torch.zeros(5, dtype=torch.int64)
    previous_first = {}
    for _ in range(40):
        action = torch.rand(5, 2, generator=generator) * 2 - 1
        native.send(action)
        mjx.send(action)
        ours, theirs = mjx.recv(), native.recv()
        for name in ("terminated", "truncated", "invalid"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        for name in ("obs", "final_obs"):
            torch.testing.assert_close(
                getattr(ours, name), getattr(theirs, name), atol=2e-5, rtol=0
            )
        for world in torch.nonzero(ours.truncated)[:, 0].tolist():
            ended[world] += 1
            # A fresh state each time, and the old episode's end is kept.
            assert not torch.equal(ours.obs[world], ours.final_obs[world])
            if world in previous_first:
                assert not torch.equal(ours.obs[world], previous_first[world])
            previous_first[world] = ours.obs[world].clone()
    # 40 steps from clocks 0, 1, 1, 4, 6: the first ends after 7, 6, 6, 3, 1 steps, then every 7.
    assert ended.tolist() == [5, 5, 5, 6, 6]


def test_zero_copy_across_dlpack():
    from fastsac.envs.dlpack import to_jax, to_torch

    tensor = torch.arange(64, dtype=torch.float32)
    array = to_jax(tensor)
    assert array.unsafe_buffer_pointer() == tensor.data_ptr()
    assert to_torch(array).data_ptr() == tensor.data_ptr()


@pytest.mark.gpu
def test_zero_copy_across_dlpack_on_the_gpu():
    from fastsac.envs.dlpack import to_jax, to_torch

    tensor = torch.arange(64, dtype=torch.float32, device="cuda")
    array = to_jax(tensor)
    assert array.unsafe_buffer_pointer() == tensor.data_ptr()
    assert to_torch(array).data_ptr() == tensor.data_ptr()


@pytest.mark.gpu
@pytest.mark.parametrize("task", list(FLOAT32_OBS))
def test_gpu_follows_the_native_engine(task, make, actions):
    native = make(task, num_envs=BATCH, engine="native")
    mjx = make(task, num_envs=BATCH, engine="mjx", device="cuda")
    native.reset(seed=3)
    obs, _ = mjx.reset(seed=3)
    assert obs.device.type == "cuda"
    after_one, after_ten = FLOAT32_OBS[task]
    for step, action in enumerate(actions(native, 10)):
        ours, theirs = mjx.step(action.cuda()), native.step(action)
        limit = after_ten if step else after_one
        np.testing.assert_allclose(ours[0].cpu(), theirs[0], atol=limit, rtol=0)
