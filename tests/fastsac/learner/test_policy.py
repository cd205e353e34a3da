"""A policy by itself: copies of it, and the arrays that it takes."""

import copy
import pickle

import numpy as np
import pytest
import torch

from fastsac import SAC, Policy, SACConfig

OBS, ACT = 4, 2
SMALL = SACConfig(hidden_sizes=(16, 16), normalize_obs=True)


@pytest.fixture
def policy():
    agent = SAC(OBS, ACT, SMALL, seed=5)
    agent.observe(3 + 2 * observations())
    return Policy.snapshot(agent, "task")


def observations():
    return torch.randn(32, OBS, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_acts_and_is_saved_as_the_policy(way, policy):
    twin = way(policy)
    assert torch.equal(twin(observations()), policy(observations()))
    assert torch.equal(twin.state_dict()["actor"], policy.state_dict()["actor"])


ARRAYS = {
    "backwards": lambda x: x[::-1, ::-1],
    "a column of columns": np.asfortranarray,
    "of the other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "float64": lambda x: x.astype(np.float64),
    "read-only": lambda x: np.lib.stride_tricks.as_strided(x, writeable=False),
    "a list": lambda x: x.tolist(),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("way", ARRAYS)
def test_it_takes_any_array(way, policy):
    given = ARRAYS[way](observations().numpy())
    expected = policy(torch.tensor(np.array(given, np.float32)))
    assert np.array_equal(policy(given), expected.numpy())


WRONG = [np.array(["x"] * OBS), [None] * OBS, [[1.0], [1.0, 2.0]], "abc", np.array([1j] * OBS)]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_holds_no_numbers_is_refused_with_a_sentence(wrong, policy):
    with pytest.raises((TypeError, ValueError), match="a policy "):
        policy(wrong)
