"""C MuJoCo's fields as a task's functions take them, and which of them a task reads."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import mujoco
import numpy as np

from fastsac.envs.dlpack import aliased, aligned
from fastsac.envs.model_fields import field
from fastsac.envs.outcome import outcome
from fastsac.envs.suite import Suite


def shaped(name: str, value: np.ndarray, batch_dims: int = 0) -> np.ndarray:
    """Gives rotation matrices MJX's shape (n, 3, 3), behind the batch dimensions."""
    return value.reshape(*value.shape[:batch_dims], -1, 3, 3) if name.endswith("mat") else value


class RecordedFields:
    """Hands out one world's fields and notes in ``names`` which were asked for."""

    def __init__(self, data: mujoco.MjData):
        self._data, self.names = data, set[str]()

    def __getattr__(self, name: str) -> jax.Array:
        value = getattr(self._data, name)
        if not isinstance(value, np.ndarray | float | int):
            raise AttributeError(
                f"physics.{name} is no array: there are MuJoCo's of fixed size, such as qpos, xpos "
                "and actuator_force, and body, geom, site, joint, joints, sensor and sensors"
            )
        self.names.add(name)
        return jax.numpy.asarray(shaped(name, np.array(value)))


class RecordedModelFields(dict[str, Any]):
    """One world's model fields; notes in ``names`` which were asked for."""

    def __init__(self, fields: Mapping[str, np.ndarray]):
        super().__init__(fields)
        self.names = set[str]()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return jax.numpy.asarray(super().__getitem__(name))


def read_fields(suite: Suite) -> tuple[set[str], set[str]]:
    """Returns what a task reads of data and of the model's rows, found by tracing it once."""
    data = RecordedFields(mujoco.MjData(suite.model))
    rows = RecordedModelFields({k: np.array(field(suite.model, k)) for k in suite.model_fields})
    # Run instead, each of its operations would be compiled: 59, 1.6 s of CPU time in cartpole.
    jax.eval_shape(lambda: outcome(suite.task, suite.model, data, rows))
    return data.names, rows.names


class Mirror:
    """Copies of C arrays where XLA reads them in place.

    jax copies what is strided or not aligned at every call, which takes 5 to 10 us an array; these
    copies take 1 to 2.

    Args:
        sources: live arrays.
        flags: the names of those that a task takes as bool.

    Attributes:
        arrays: name -> what a compiled function takes, as it was at the last ``refresh``;
            there must have been one.
    """

    def __init__(self, sources: Mapping[str, np.ndarray], flags: Collection[str] = ()):
        copies = {k: aligned(v.shape, bool if k in flags else v.dtype) for k, v in sources.items()}
        self._pairs = [(copies[k], sources[k]) for k in sources]
        self.arrays = {k: aliased(v) for k, v in copies.items()}

    def refresh(self) -> None:
        """Copies what the sources hold now."""
        for copy, source in self._pairs:
            copy[...] = source
