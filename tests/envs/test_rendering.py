"""Pictures of the worlds: dm_control's own, of each world's state and model."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastsac
from fastsac.envs.helper_process import HelperProcess
from fastsac.envs.registry import find
from fastsac.envs.rendering import Camera
from fastsac.envs.suite import load, load_suite
from tests.envs.test_registry import MODEL


@pytest.fixture(scope="module", autouse=True)
def opengl():
    try:
        Camera(load_suite(find("pendulum_swingup")).model, (), 32, 32).close()
    except RuntimeError as error:
        pytest.skip(str(error))


def rendered_by_dm_control(task, state, world, size):
    env = load(find(task), 0)
    del type(env.physics).contexts
    env.reset()
    with env.physics.reset_context():
        for name in state:
            owner = env.physics.model if name in find(task).randomised else env.physics.data
            getattr(owner, name)[...] = state[name][world]
    return env.physics.render(*size[::-1], camera_id=0)


@pytest.mark.parametrize("task", ["cheetah_run", "reacher_hard", "lqr_lqr_2_1"])
def test_a_frame_is_dm_controls(task, make, few_states_ahead):
    env = make(task, num_envs=2, array="numpy")
    env.frame_size = (64, 48)
    env.reset(seed=0)
    frames, state = env.render(), env.get_state()
    assert len(frames) == 2 and frames[0].dtype == np.uint8
    for world, frame in enumerate(frames):
        expected = rendered_by_dm_control(task, state, world, env.frame_size)
        assert frame.shape == expected.shape == (48, 64, 3) and frame.std() > 1
        np.testing.assert_array_equal(frame, expected)
    assert (frames[0] != frames[1]).any()
    env.step(np.ones((2, env.action_dim)))
    assert (env.render()[0] != frames[0]).any()


def test_a_terrain_of_its_own_is_seen(make, few_states_ahead):
    env = make("quadruped_escape", num_envs=2, array="numpy")
    env.reset(seed=0)
    state = env.get_state()
    env.set_state({name: values[[0, 0]] for name, values in state.items() if name != "hfield_data"})
    one, two = env.render()
    assert (one != two).mean() > 0.02  # the same robot in two landscapes


def test_a_task_of_ones_own_is_seen_with_its_own_options(make):
    fastsac.register("mine", MODEL, lambda p: {"x": p.qpos}, lambda p: p.qpos[0] * p.time)
    draw = {"opt.gravity": lambda random, default: random.uniform(0.5, 2) * default}
    env = make("mine", num_envs=2, array="numpy", randomize=draw)
    env.reset(seed=0)
    before = env.render()[0]
    for _ in range(5):
        env.step(np.ones((2, 1)))
    assert (env.render()[0] != before).any()


def test_no_opengl_gets_a_sentence():
    code = (
        "import fastsac; env = fastsac.make('pendulum_swingup'); env.reset()\n"
        "try: env.render()\n"
        "except RuntimeError as error: print(error)"
    )
    environment = os.environ | {"MUJOCO_GL": "disabled"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.startswith("OpenGL fails here (") and "fastsac doctor" in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.slow
def test_any_thread_may_render_and_close(make):
    env = fastsac.make("pendulum_swingup", array="numpy")
    env.reset(seed=0)
    with ThreadPoolExecutor(1) as other:
        (there,) = other.submit(env.render).result()
        np.testing.assert_array_equal(there, env.render()[0])
        other.submit(env.render).result()
    env.close()


ENDS = {
    "pixels closed": "e = make(pixels=(8, 8)); e.reset(); e.close()",
    "pixels left": "e = make(pixels=(8, 8)); e.reset()",
    "rendered and left": "e = make(); e.reset(); e.render()",
    "rendered and dropped": "e = make(); e.reset(); e.render(); del e; gc.collect()",
}


@pytest.mark.slow
@pytest.mark.parametrize("code", ENDS.values(), ids=ENDS.keys())
def test_a_program_ends_without_a_word(code):
    start = "import gc, fastsac\nmake = lambda **a: fastsac.make('pendulum_swingup', 2, **a)\n"
    run = [sys.executable, "-c", start + code]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Exception" not in done.stderr and "Error" not in done.stderr, done.stderr


def test_an_interrupt_leaves_no_old_pictures_behind(make, monkeypatch):
    env, other = (make("pendulum_swingup", 2, array="numpy", pixels=(24, 32)) for _ in range(2))
    for one in (env, other):
        one.reset(seed=0)

    def interrupted(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(HelperProcess, "receive", interrupted)
        env.step(np.ones((2, 1)))
    for one in (env, other):
        one.reset(seed=7)
    ours, theirs = ([one.step(np.ones((2, 1)))[0] for _ in range(2)] for one in (env, other))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_helper_that_died_is_replaced_at_the_next_reset(make):
    env = make("pendulum_swingup", 2, array="numpy", pixels=(24, 32))
    env.reset(seed=0)
    for helper in env.engine._cameras._helpers:
        helper._process.kill()
        helper._process.wait()
    with pytest.raises(RuntimeError, match="a process that rendered has ended"):
        env.step(np.ones((2, 1)))
    assert env.reset(seed=0)[0].std() > 1
