"""The replay buffer against a deque, and the statistics of its sampling."""

import re
from collections import deque

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import fastsac.learner.replay
from fastsac import ReplayBuffer
from fastsac.errors import ConfigError

OBS, ACT = 3, 2
ROW_BYTES = 4 * (OBS + ACT + 1 + 1 + OBS + 1 + 1)


def rows(n):
    """Transitions number n (N,): the number is in every column, so that a mixed-up row shows."""
    columns = torch.arange(OBS) / 8
    return {
        "obs": n[:, None] + columns,
        "action": torch.stack([n + 0.25, -n], dim=1),
        "reward": n + 0.5,
        "terminated": n % 3 == 0,
        "next_obs": 1000 + n[:, None] + columns,
        "weight": n % 5 != 0,
        "steps": 1 + n % 7,
    }


def transitions(first, count):
    return rows(torch.arange(first, first + count, dtype=torch.float32))


def numbers(batch):
    """The transitions' numbers, after checking that each row is one whole transition."""
    n = batch.obs[:, 0].round()
    for name, want in rows(n).items():
        assert torch.equal(getattr(batch, name), want.float()), name
    return n.int().tolist()


def content(replay):
    """All that is stored; a row is missed by 64 draws a row with probability e^-64."""
    return set(numbers(replay.sample(64 * len(replay))))


@given(
    capacity=st.integers(1, 17),
    counts=st.lists(st.integers(0, 17), max_size=12),
    every=st.booleans(),
)
def test_it_holds_what_a_deque_holds(capacity, counts, every):
    replay, model, n = ReplayBuffer(capacity, OBS, ACT), deque(maxlen=capacity), 0
    for count in (min(count, capacity) for count in counts):
        replay.add(**transitions(n, count))
        model.extend(range(n, n + count))
        n += count
        assert len(replay) == len(model)
        if every and model:
            assert content(replay) == set(model)
    if model:
        assert content(replay) == set(model)


@pytest.mark.parametrize("capacity, count", [(10, 3), (10, 7), (10, 10), (7, 5), (255, 64)])
def test_wrap_around_keeps_the_newest(capacity, count):
    replay = ReplayBuffer(capacity, OBS, ACT)
    for step in range(3 * capacity // count + 2):
        replay.add(**transitions(step * count, count))
        end = (step + 1) * count
        assert content(replay) == set(range(max(0, end - capacity), end))


def test_the_batch_is_float32_and_weights_and_steps_default_to_one():
    replay = ReplayBuffer(10, OBS, ACT)
    fields = transitions(0, 4) | {"weight": None, "steps": None}
    replay.add(**{k: v.double() if k == "obs" else v for k, v in fields.items()})
    batch = replay.sample(5)
    shapes = {"obs": (5, OBS), "action": (5, ACT), "next_obs": (5, OBS)}
    for name in batch._fields:
        value = getattr(batch, name)
        assert value.dtype == torch.float32 and value.shape == shapes.get(name, (5,)), name
    assert torch.equal(batch.weight, torch.ones(5)) and torch.equal(batch.steps, torch.ones(5))


def test_stored_rows_are_copies():
    replay = ReplayBuffer(4, OBS, ACT)
    fields = transitions(0, 4)
    replay.add(**fields)
    for value in fields.values():
        value.fill_(7)
    first = replay.sample(100)
    kept = {name: getattr(first, name).clone() for name in first._fields}
    assert set(numbers(first)) == {0, 1, 2, 3}
    replay.add(**transitions(50, 4))
    assert all(torch.equal(getattr(first, name), kept[name]) for name in kept)


@pytest.mark.parametrize("capacity, added", [(50, 50), (50, 23), (50, 120), (1, 1), (64, 3)])
def test_sampling_is_uniform_over_what_is_stored(capacity, added):
    replay = ReplayBuffer(capacity, OBS, ACT, seed=11)
    for n in range(added):
        replay.add(**transitions(n, 1))
    stored = min(capacity, added)
    draws = replay.sample(20_000).obs[:, 0].round().long() - (added - stored)
    counts = torch.bincount(draws, minlength=stored)
    assert len(counts) == stored
    if stored > 1:
        assert stats.chisquare(counts.numpy()).pvalue > 1e-3
        # With replacement and independent: a neighbour repeats once in `stored` draws.
        repeats = (draws[1:] == draws[:-1]).float().mean().item()
        deviation = (1 / stored * (1 - 1 / stored) / len(draws)) ** 0.5
        assert repeats == pytest.approx(1 / stored, abs=4 * deviation)


def test_the_chi_square_notices_a_row_that_is_drawn_half_as_often():
    replay = ReplayBuffer(50, OBS, ACT, seed=11)
    replay.add(**transitions(0, 50))
    counts = torch.bincount(replay.sample(20_000).obs[:, 0].round().long(), minlength=50)
    counts[-1] //= 2
    assert stats.chisquare(counts.numpy()).pvalue < 1e-3


def test_seeds_decide_the_sampling():
    def draw(seed):
        replay = ReplayBuffer(100, OBS, ACT, seed=seed)
        replay.add(**transitions(0, 100))
        return torch.stack([replay.sample(64).obs for _ in range(3)])

    before = torch.get_rng_state()
    one, two, other = draw(1), draw(1), draw(2)
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])
    assert torch.equal(torch.get_rng_state(), before), "torch's global generator was used"


def test_an_empty_buffer_is_not_sampled():
    replay = ReplayBuffer(10, OBS, ACT)
    with pytest.raises(ValueError, match="empty"):
        replay.sample(4)
    replay.add(**transitions(0, 0))
    assert len(replay) == 0
    with pytest.raises(ValueError, match="empty"):
        replay.sample(4)


@pytest.mark.parametrize(
    "field, shape",
    [
        ("obs", (4, OBS + 1)),
        ("obs", (4,)),
        ("action", (4, 1)),
        ("action", (3, ACT)),
        ("reward", (4, 1)),
        ("reward", (3,)),
        ("reward", ()),
        ("terminated", (5,)),
        ("terminated", ()),
        ("next_obs", (4, OBS, 1)),
        ("next_obs", (1, OBS)),
        ("weight", (1,)),
        ("weight", (4, 4)),
        ("steps", (4, 1)),
        ("steps", (3,)),
    ],
)
def test_wrong_shapes_are_refused_and_nothing_is_stored(field, shape):
    replay = ReplayBuffer(10, OBS, ACT)
    replay.add(**transitions(0, 2))
    with pytest.raises(ValueError, match=r"must have shape"):
        replay.add(**transitions(2, 4) | {field: torch.zeros(shape)})
    assert len(replay) == 2 and content(replay) == {0, 1}


def test_more_rows_than_the_capacity_are_refused():
    replay = ReplayBuffer(5, OBS, ACT)
    with pytest.raises(ValueError, match="6 transitions do not fit a replay of 5"):
        replay.add(**transitions(0, 6))
    assert len(replay) == 0
    replay.add(**transitions(0, 5))
    assert content(replay) == set(range(5))


@pytest.mark.parametrize("sizes", [(0, OBS, ACT), (10, 0, ACT), (10, OBS, 0), (-1, OBS, ACT)])
def test_sizes_must_be_positive(sizes):
    with pytest.raises(ConfigError, match="must be positive"):
        ReplayBuffer(*sizes)


def test_a_buffer_beyond_the_memory_of_this_machine_is_refused():
    capacity = 10**13
    with pytest.raises(ConfigError) as caught:
        ReplayBuffer(capacity, OBS, ACT)
    sentence = str(caught.value)
    assert f"--replay-capacity {capacity}" in sentence and "\n" not in sentence
    asked, free = (int(x) for x in re.findall(r"\((\d+) bytes\)", sentence))
    assert asked == capacity * ROW_BYTES
    with open("/proc/meminfo") as meminfo:
        total = int(meminfo.readline().split()[1]) * 1024
    assert 0 < free < total


def test_the_last_byte_decides_and_a_refusal_allocates_nothing(monkeypatch):
    monkeypatch.setattr(fastsac.learner.replay, "free_bytes", lambda device: 100 * ROW_BYTES)
    assert len(ReplayBuffer(100, OBS, ACT)) == 0

    def allocated(*args, **kwargs):
        raise AssertionError("memory was allocated before the check")

    for name in ("zeros", "empty", "ones", "full"):
        monkeypatch.setattr(torch, name, allocated)
    with pytest.raises(ConfigError, match=rf"\({101 * ROW_BYTES} bytes\).*\({100 * ROW_BYTES} "):
        ReplayBuffer(101, OBS, ACT)
