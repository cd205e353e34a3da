"""Arrays in one memory a kind: what torch sees of them."""

import jax
import numpy as np
import pytest
import torch

from fastsac.envs.engines.packing import Packing


@pytest.mark.parametrize("count", [1, 3, 255])
def test_torch_sees_every_array_as_it_was_packed(count):
    random = np.random.default_rng(0)
    arrays = {
        "obs": random.normal(size=(count, 5)).astype(np.float32),
        "done": random.random(count) < 0.5,
        "reward": random.normal(size=count).astype(np.float32),
        "none": np.zeros((count, 0), np.float32),
        "fault": random.integers(0, 255, (count, 2)).astype(np.uint8),
        "material": random.integers(-5, 70_000, (count, 2)).astype(np.int32),
    }
    packing = Packing({k: (v.shape, torch.from_numpy(v).dtype) for k, v in arrays.items()})
    packed = jax.jit(packing.pack)(arrays)
    assert [v.shape for v in packed] == [(6 * count,), (3 * count,), (2 * count,)]
    views = packing.unpack(packed)
    assert views.keys() == arrays.keys()
    for name, array in arrays.items():
        assert views[name].is_contiguous() and views[name].dtype == torch.from_numpy(array).dtype
        np.testing.assert_array_equal(views[name].numpy(), array)
    assert views["reward"].data_ptr() == views["obs"].data_ptr() + 20 * count


def test_one_kind_alone_is_one_vector():
    packing = Packing({"reward": ((3,), torch.float32)})
    (packed,) = jax.jit(packing.pack)({"reward": np.arange(3, dtype=np.float32)})
    assert packing.unpack([packed])["reward"].tolist() == [0, 1, 2]
