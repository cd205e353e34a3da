"""The native engine's model fields that have a value of their own in each world."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import mujoco
import numpy as np
from mujoco.batch import MODEL_FIELDS, Batch

Rows = dict[str, np.ndarray]

_NO_ACTUATION = int(mujoco.mjtDisableBit.mjDSBL_ACTUATION)


class WorldModels:
    """Model fields per world, kept by the batch where it can hold them.

    It cannot hold height fields and other assets; every world then has a whole model of its own
    (quadruped_escape's is 12 MB, its floor's texture).

    Args:
        batch: the worlds.
        names: MjModel's arrays that are per world.

    Attributes:
        rows: name -> values (B, ...).
    """

    def __init__(self, batch: Batch, names: Sequence[str]):
        self._batch = batch
        self._models: list[mujoco.MjModel] = []
        if set(names) <= MODEL_FIELDS:
            self.rows: Rows = {k: batch.expand(k) for k in names}
            self._disabled = batch.expand("opt.disableflags")
        else:
            self._models = [copy.copy(batch.model) for _ in range(batch.nsim)]
            self.rows = {k: np.stack([getattr(m, k) for m in self._models]) for k in names}
            batch.set_models(self._models)

    def write(self, worlds: np.ndarray, rows: Rows) -> None:
        """Gives world worlds[k] the values rows[name][k]."""
        for name, values in self.rows.items():
            values[worlds] = rows[name]
            for world in worlds if self._models else ():
                getattr(self._models[world], name)[...] = values[world]

    @contextmanager
    def without_actuation(self, worlds: np.ndarray) -> Iterator[None]:
        """Disables the actuators of these worlds for a while."""
        self._toggle_actuation(worlds)
        try:
            yield
        finally:
            self._toggle_actuation(worlds)

    def _toggle_actuation(self, worlds: np.ndarray) -> None:
        if not self._models:
            self._disabled[worlds] ^= _NO_ACTUATION
            return
        for world in worlds:
            self._models[world].opt.disableflags ^= _NO_ACTUATION
        self._batch.set_models(self._models)
