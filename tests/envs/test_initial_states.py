"""The pool: dm_control's own draws, fixed by the seed whatever the background thread does."""

import time

import numpy as np
import pytest

from fastsac.envs import initial_states
from fastsac.envs.initial_states import InitialStates
from fastsac.envs.registry import find
from fastsac.envs.suite import load, load_suite


@pytest.fixture
def pool():
    made = []

    def build(task, seed=0, start=0):
        made.append(InitialStates(load_suite(find(task)), seed, start))
        return made[-1]

    yield build
    for one in made:
        one.close()


LQR = pytest.param("lqr_lqr_2_1", marks=pytest.mark.slow)  # its first states are slow to draw


def row_seed(seed, index):
    """Every row has a random state of its own."""
    return np.random.SeedSequence([seed, index]).spawn(2)[0].generate_state(8)


@pytest.mark.parametrize("task", ["reacher_hard", "finger_turn_easy", "walker_run", LQR])
def test_rows_are_dm_controls_own_draws(task, pool):
    rows = pool(task, seed=7).take(20)
    task = find(task)
    env = load(task, 0)
    for index in range(20):
        if task.model_is_drawn:
            env = load(task, np.random.RandomState(row_seed(7, index)))
        else:
            env.task.random.seed(row_seed(7, index))
        env.reset()
        for name in ("qpos", "qvel", "act", "qacc_warmstart"):
            np.testing.assert_array_equal(rows[name][index], getattr(env.physics.data, name))
        for name in task.randomised:
            np.testing.assert_array_equal(rows[name][index], getattr(env.physics.model, name))


@pytest.mark.parametrize("sizes", [[200], [1] * 200, [64, 64, 72], [3, 130, 67]])
def test_sequence_does_not_depend_on_how_it_is_taken(sizes, pool):
    whole = pool("reacher_hard", seed=1).take(200)
    source = pool("reacher_hard", seed=1)
    parts = [source.take(size) for size in sizes]
    for name, values in whole.items():
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), values)


def test_sequence_does_not_depend_on_the_threads_timing(pool):
    hurried, patient = pool("reacher_hard", seed=2), pool("reacher_hard", seed=2)
    for _ in range(5):
        time.sleep(0.05)
        ours, theirs = hurried.take(50), patient.take(50)
        np.testing.assert_array_equal(ours["qpos"], theirs["qpos"])


@pytest.mark.parametrize("task", ["reacher_hard", "cheetah_run", LQR])
def test_sequence_does_not_depend_on_how_many_draw(task):
    alone, several = (InitialStates(load_suite(find(task)), 6, threads=n) for n in (1, 3))
    ours, theirs = several.take(80), alone.take(80)
    for source in (alone, several):
        source.close()
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values)


@pytest.mark.parametrize("start", [1, 15, 16, 200])
def test_start_skips_rows(start, pool):
    whole = pool("reacher_hard", seed=3).take(start + 10)
    later = pool("reacher_hard", seed=3, start=start)
    np.testing.assert_array_equal(later.take(10)["qpos"], whole["qpos"][start:])
    assert later.taken == start + 10


def test_no_row_is_drawn_twice_and_seeds_differ(pool):
    rows = pool("reacher_hard", seed=4).take(256)
    assert np.unique(rows["qpos"], axis=0).shape[0] == 256
    # Joint angles and target are independent draws: one key used twice would tie them together.
    target = find("reacher_hard").randomised[0]
    angles = np.arctan2(*rows[target][:, 6, :2].T)
    assert abs(np.corrcoef(angles, rows["qpos"][:, 0])[0, 1]) < 0.2
    other = pool("reacher_hard", seed=5).take(64)
    assert not np.isin(other["qpos"], rows["qpos"]).any()


def test_a_failure_in_the_thread_reaches_the_caller(pool, monkeypatch):
    def broken(physics):
        raise FloatingPointError("bad draw")

    def load_broken(task, random):
        env = load(task, random)
        env.task.initialize_episode = broken
        return env

    monkeypatch.setattr(initial_states, "load", load_broken)
    source = pool("reacher_hard", seed=0)
    with pytest.raises(FloatingPointError, match="bad draw"):
        source.take(200)
