"""The initial states that wait on the device: rows in order, and renewed as they are used."""

import dataclasses

import jax
import numpy as np
import pytest

from fastsac.envs.engines.pool import SLAB, StatePool, pool_size
from fastsac.envs.initial_states import InitialStates
from fastsac.envs.registry import find
from fastsac.envs.suite import load_suite

PENDULUM = load_suite(find("pendulum_swingup"))
SEED = 7


def angles(count):
    """The first rows of the sequence: pendulum's angle tells them apart."""
    source = InitialStates(PENDULUM, SEED)
    rows = source.take(count)["qpos"][:, 0].astype(np.float32)
    source.close()
    assert len(np.unique(rows)) == count
    return rows


def completed(rows):
    return {k: rows[k].astype(np.float32) for k in ("qpos", "qvel")}


@pytest.fixture
def build():
    """Returns a pool of the pendulum, with episodes of so many steps or with a termination."""
    made = []

    def get(num_envs, steps=1000, terminate=None, complete=completed):
        task = dataclasses.replace(PENDULUM.task, terminate=terminate)
        suite = dataclasses.replace(PENDULUM, task=task, max_episode_steps=steps)
        made.append(StatePool(suite, num_envs, jax.devices("cpu")[0], complete))
        return made[-1]

    yield get
    for pool in made:
        pool.close()


def held(pool):
    return np.asarray(pool.rows["qpos"])[:, 0]


@pytest.mark.parametrize(("num_envs", "size"), [(1, 256), (32, 256), (33, 320), (64, 320)])
def test_room_for_all_worlds_twice_and_three_slabs(num_envs, size):
    assert pool_size(num_envs) == size


@pytest.mark.parametrize(("num_envs", "drawn"), [(3, 192), (64, 192), (65, 256)])
def test_begins_with_the_sequences_first_rows(num_envs, drawn, build):
    """A row a world, in whole slabs, and two slabs for the first resets."""
    pool, rows = build(num_envs), angles(drawn)
    first = pool.begin(SEED)
    assert {k: v.shape for k, v in first.items()} == dict.fromkeys(("qpos", "qvel"), (num_envs, 1))
    np.testing.assert_array_equal(first["qpos"][:, 0], rows[:num_envs])
    assert int(pool.filled) == drawn and len(held(pool)) == pool_size(num_envs)
    np.testing.assert_array_equal(held(pool)[:drawn], rows)


def test_the_time_limit_says_when_a_slab_is_used_up(build):
    """64 rows by 8 worlds with episodes of 4 steps: 32 steps. Nobody is asked for the count."""
    pool, rows = build(8, steps=4), angles(6 * SLAB)
    pool.begin(SEED)

    def taken():
        raise AssertionError("this waits for the device")

    for slabs in (3, 4, 5, 6):
        filled = min(slabs, 4) * SLAB  # of the pool's 256 rows
        expected = np.roll(rows[: slabs * SLAB][-filled:], max(0, slabs - 4) * SLAB)
        for _ in range(32):
            np.testing.assert_array_equal(held(pool)[:filled], expected)
            assert int(pool.filled) == filled
            pool.renew(taken)


@pytest.mark.parametrize("num_envs", [192, 200])
def test_more_worlds_than_a_slab_end_in_one_step(num_envs, build):
    pool = build(num_envs, steps=1)
    pool.begin(SEED)
    size, rows, taken = pool_size(num_envs), angles(num_envs * 7), num_envs
    for _ in range(5):
        pool.renew(lambda: 1 / 0)
        index = np.arange(taken, taken + num_envs)
        np.testing.assert_array_equal(held(pool)[index % size], rows[index])
        taken += num_envs


@pytest.mark.parametrize("used", [[0, 0, 0], [100, 100, 100, 100], [3, 99, 0, 0, 64, 1, 100]])
def test_where_a_task_terminates_the_count_of_used_rows_renews(used, build):
    """Whatever ends in a step, each world finds a row of the sequence that nobody had."""
    pool, rows = build(100, terminate=lambda physics: physics.qpos[0] > 0), angles(1400)
    pool.begin(SEED)
    size, taken = pool_size(100), 100
    for count in used:
        pool.renew(lambda taken=taken: taken)
        index = np.arange(taken, taken + 100)  # all could end now
        np.testing.assert_array_equal(held(pool)[index % size], rows[index])
        assert index[-1] < int(pool.filled) or int(pool.filled) == size
        taken += count
    if not any(used):  # beyond the first step's: 100 worlds and a slab wait then, of 4 slabs 156
        assert int(pool.filled) == 5 * SLAB, "what is not used is not renewed"


def test_goes_on_from_its_state(build):
    """In a pool that was elsewhere in another sequence, with slabs drawn ahead in both."""
    pool, other = build(8, steps=4), build(8, steps=4)
    pool.begin(SEED)
    for _ in range(50):  # between two renewals
        pool.renew(lambda: 0)
    state = pool.state_dict()
    other.begin(SEED + 1)
    other.renew(lambda: 0)
    other.load_state_dict(state)
    for _ in range(100):
        np.testing.assert_array_equal(held(other), held(pool))
        assert int(other.filled) == int(pool.filled)
        for each in (pool, other):
            each.renew(lambda: 0)
    assert not np.array_equal(held(pool), state["rows"]["qpos"][:, 0]), "renewed since"


def test_a_draw_that_fails_is_raised(build):
    def fails(rows):
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        build(8, complete=fails).begin(SEED)
