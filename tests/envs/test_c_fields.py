"""Arrays whose memory a compiled function reads in place."""

import jax
import numpy as np
import pytest

from fastsac.envs.c_fields import Mirror
from fastsac.envs.dlpack import aliased, aligned


@pytest.mark.parametrize("rows", [1, 3, 64, 255])
def test_a_compiled_function_sees_what_the_source_holds_at_the_refresh(rows):
    state = np.full((rows, 7), np.nan)
    source = state[:, 2:5]  # strided, as the batch's state fields are
    mirror = Mirror({"qpos": source})
    with jax.enable_x64(True):
        compiled = jax.jit(lambda fields: fields["qpos"] * 2).lower(mirror.arrays).compile()
    for value in (0.1, 1e300):  # neither is a float32
        source[...] = value
        mirror.refresh()
        state[:] = np.nan
        doubled = np.array(compiled(mirror.arrays))
        assert doubled.shape == (rows, 3) and (doubled == 2 * value).all()


def test_an_aliased_array_is_the_same_memory_and_the_cpus():
    clocks = aligned((5,), np.int64)
    array = aliased(clocks)
    assert array.unsafe_buffer_pointer() == clocks.ctypes.data and array.dtype == np.int64
    # Uncommitted, what it goes into would be compiled for the GPU where there is one.
    assert array.committed and array.devices() == {jax.devices("cpu")[0]}


def test_memory_that_xla_would_have_to_copy_is_refused():
    whole = aligned((64, 8), np.float64)
    for part in (whole[:, :3], whole.ravel()[1:]):
        with pytest.raises((ValueError, jax.errors.JaxRuntimeError)):
            aliased(part)


def test_a_field_without_entries_can_be_read():
    for _ in range(50):  # wherever its memory begins
        assert Mirror({"act": np.empty((4, 0))}).arrays["act"].shape == (4, 0)
