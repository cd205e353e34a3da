"""Every model that MJX holds is lowered for CUDA, which needs no GPU; one task steps it."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax import export

from fastsac.envs.engines.mjx import MjxEngine
from fastsac.envs.registry import find
from fastsac.envs.suite import SENSORS, STATE, load_suite
from tests.envs.mjx_models import ONE_A_MODEL

QUICK = ("reacher_hard",)
CASES = [
    pytest.param(task, marks=() if task in QUICK else pytest.mark.slow) for task in ONE_A_MODEL
]
WORLDS = 64


@pytest.mark.parametrize("task", CASES)
def test_a_step_is_lowered_for_cuda(task):
    suite = load_suite(find(task))
    engine = MjxEngine(suite, WORLDS)
    model, data = suite.model, jax.eval_shape(engine._blank)
    fields = {k: getattr(data, k).shape for k in (*STATE, SENSORS)}
    fields |= {k: getattr(model, k).shape for k in engine._model_fields}
    rows = engine._pool_rows
    pool = {k: jax.ShapeDtypeStruct((rows, *shape), jnp.float32) for k, shape in fields.items()}
    clocks = jax.ShapeDtypeStruct((WORLDS,), jnp.int32)
    filled = jax.ShapeDtypeStruct((), jnp.int32)
    worlds, obs = jax.eval_shape(engine._start_worlds, pool, clocks, filled)
    assert obs.shape == (WORLDS, suite.obs_dim)
    action = jax.ShapeDtypeStruct((WORLDS, suite.action_dim), jnp.float32)
    exported = export.export(engine._step, platforms=["cuda"])(worlds, action)
    assert exported.platforms == ("cuda",) and len(exported.mlir_module_serialized) > 10_000
    # TF32, which XLA's default precision allows, is no float32. MJX itself has HIGH where it looks
    # for the corner of a box that is farthest, and nowhere else.
    products = re.findall(r"stablehlo.dot_general.*", exported.mlir_module())
    low = [one for one in products if "precision = [HIGHEST, HIGHEST]" not in one]
    assert products and all("precision = [HIGH, HIGH]" in one for one in low), low
    assert not low or "stacker" in task
    # The state goes in and out with the same shapes, so that it can be stepped again and again,
    # and nothing is in float64, which a GPU does at a fraction of its speed.
    after = [a for a in exported.out_avals][: len(jax.tree.leaves(worlds))]
    assert [a.shape for a in after] == [a.shape for a in jax.tree.leaves(worlds)]
    assert not [a for a in exported.out_avals if a.dtype == jnp.float64]
