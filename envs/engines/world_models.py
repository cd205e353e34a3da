"""The native engine's model fields that have a value of their own in each world."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import mujoco
import numpy as np
from mujoco.batch import MODEL_FIELDS, Batch

from fastsac.envs.model_fields import field, write_field
from fastsac.envs.suite import Suite

Rows = dict[str, np.ndarray]

# Measured with 16 to 1024 worlds: 0.18 to 0.29 MB each of most domains, and these, without models.
_WORLD_BYTES = {"dog": 2_500_000, "quadruped_escape": 1_600_000}

_NO_ACTUATION = int(mujoco.mjtDisableBit.mjDSBL_ACTUATION)


class WorldModels:
    """Model fields per world, kept by the batch where it can hold them.

    It cannot hold height fields and other assets; every world then has a whole model of its own
    (quadruped_escape's is 12 MB, its floor's texture).

    Args:
        batch: the worlds.
        names: MjModel's arrays and options that are per world.
        whole: have whole models in any case, one for all worlds where no array is per world: a
            world goes on from its last call's stages though its actuators were off meanwhile. The
            batch sees what changes in models that it keeps itself, and begins with mj_step1.

    Attributes:
        rows: name -> values (B, ...).
    """

    def __init__(self, batch: Batch, names: Sequence[str], whole: bool = False):
        self._batch = batch
        self._models: list[mujoco.MjModel] = []
        if set(names) <= MODEL_FIELDS and not whole:
            self.rows: Rows = {k: batch.expand(k) for k in names}
            self._disabled = batch.expand("opt.disableflags")
        else:
            count = batch.nsim if names else 1
            models = [copy.copy(batch.model) for _ in range(count)]
            self._models = models * (batch.nsim // count)
            self.rows = {k: np.stack([field(m, k) for m in self._models]) for k in names}
            batch.set_models(self._models)

    def write(self, worlds: np.ndarray, rows: Rows) -> None:
        """Gives world worlds[k] the values rows[name][k]."""
        for name, values in self.rows.items():
            values[worlds] = rows[name]
            for world in worlds if self._models else ():
                write_field(self._models[world], name, values[world])

    @contextmanager
    def without_actuation(self, worlds: np.ndarray) -> Iterator[None]:
        """Disables the actuators of these worlds for a while."""
        self._toggle_actuation(worlds)
        if self._models:  # once: a world whose model is set anew begins with mj_step1
            self._batch.set_models(self._models)
        try:
            yield
        finally:
            self._toggle_actuation(worlds)

    def _toggle_actuation(self, worlds: np.ndarray) -> None:
        if not self._models:
            self._disabled[worlds] ^= _NO_ACTUATION
            return
        for model in {id(self._models[world]): self._models[world] for world in worlds}.values():
            model.opt.disableflags ^= _NO_ACTUATION


def velocity_acts(suite: Suite) -> bool:
    """Whether an actuator's force may depend on its velocity, as a motor's does not."""
    model, gain, bias = suite.model, mujoco.mjtGain, mujoco.mjtBias
    known = np.isin(model.actuator_gaintype, [gain.mjGAIN_FIXED, gain.mjGAIN_AFFINE])
    known &= np.isin(model.actuator_biastype, [bias.mjBIAS_NONE, bias.mjBIAS_AFFINE])
    factors = [model.actuator_gainprm[:, 2], model.actuator_biasprm[:, 2]]
    factors += [model.actuator_damping, model.actuator_dampingpoly]
    drawn = any(k.startswith("actuator_") for k in suite.model_fields)
    return bool(drawn or not known.all() or any(np.any(f) for f in factors))


def world_bytes(suite: Suite) -> int:
    """Returns about how much memory a world of the native engine takes, with a model if it has one.

    It has where the batch does not keep the fields that are per world.
    """
    kept = {*suite.model_fields} <= MODEL_FIELDS and not velocity_acts(suite)
    model = 0 if kept or not suite.model_fields else mujoco.mj_sizeModel(suite.model)
    task = suite.task
    return model + _WORLD_BYTES.get(task.full_name, _WORLD_BYTES.get(task.domain, 300_000))
