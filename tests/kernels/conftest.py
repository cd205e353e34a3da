"""Where the kernels run, and memory that is NaN until it is written."""

import importlib.util
import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TRITON = importlib.util.find_spec("triton") is not None
TAIL = 64  # elements behind each allocation, which nothing may write


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """The GPU, or the CPU, where fused goes through Triton's interpreter."""
    function = request.node.callspec.params.get("function")
    fused = getattr(function, "__name__", "").startswith("fused")
    if fused and not (TRITON and (INTERPRETED or request.param == "cuda")):
        pytest.skip("this machine's Triton runs no kernels on CPU tensors")
    return request.param


@pytest.fixture(autouse=True)
def unwritten(monkeypatch):
    """Fills floating-point allocations with NaN; fails where a kernel wrote behind one."""
    tails = []

    def nan_filled(allocate):
        def allocation(*args, **kwargs):
            plain = allocate(*args, **kwargs)
            if not plain.is_floating_point() or not plain.is_contiguous():
                return plain
            size = plain.numel()
            whole = torch.full((size + TAIL,), torch.nan, dtype=plain.dtype, device=plain.device)
            tails.append(whole[size:])
            return whole[:size].view(plain.shape)

        return allocation

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, nan_filled(getattr(owner, name)))
    yield tails
    assert all(tail.isnan().all() for tail in tails), "written behind an output"
