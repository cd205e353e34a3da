"""What a task sees of one world: MuJoCo's fields, and rows of them by name."""

from collections.abc import Mapping, Sequence
from typing import Any

import mujoco
import numpy as np


class Physics:
    """One world's state under MuJoCo's field names.

    ``physics.qpos`` is the field itself; ``physics.body("torso").xpos`` is the row of it that
    belongs to a named element, as in MuJoCo's own Python bindings (``body``: xpos, xmat,
    subtree_com ...; ``geom``, ``site``: xpos, xmat; ``joint``: qpos, qvel; ``sensor``: data).
    Rotation matrices are (3, 3). Names become integers while a function is traced, so a compiled
    step holds none.

    Args:
        model: the compiled model, for names and constants (``physics.model.geom_size``).
        data: any object with the fields as attributes: an mjx.Data of one world, or the native
            engine's row of C arrays.
        model_fields: this world's values of the model fields that are per world;
            ``physics.model.geom_size`` is then one of them.
    """

    def __init__(
        self, model: mujoco.MjModel, data: Any, model_fields: Mapping[str, Any] | None = None
    ):
        self.model = _WorldModel(model, model_fields) if model_fields else model
        self._compiled, self._data = model, data

    def __getattr__(self, field: str) -> Any:
        return getattr(self._data, field)

    def default_pose(self) -> "Physics":
        """Positions and orientations of the model's default configuration, constants."""
        data = mujoco.MjData(self._compiled)
        mujoco.mj_kinematics(self._compiled, data)
        return Physics(self._compiled, data)

    def body(self, name: str) -> "_Row":
        """Rows of a body: xpos (3,), xmat (3, 3), subtree_com (3,) ..."""
        return _Row(self, "", self.model.body(name).id)

    def geom(self, name: str) -> "_Row":
        """Rows of a geom: xpos (3,), xmat (3, 3)."""
        return _Row(self, "geom_", self.model.geom(name).id)

    def site(self, name: str) -> "_Row":
        """Rows of a site: xpos (3,), xmat (3, 3)."""
        return _Row(self, "site_", self.model.site(name).id)

    def joint(self, name: str) -> "_Row":
        """Slices of a joint: qpos and qvel, of its degrees of freedom."""
        joint = self.model.joint(name)
        width = {"qpos": _QPOS_WIDTH, "qvel": _DOF_WIDTH}
        kind = int(joint.type[0])
        rows = {"qpos": int(joint.qposadr[0]), "qvel": int(joint.dofadr[0])}
        return _Row(self, "", {f: slice(a, a + width[f][kind]) for f, a in rows.items()})

    def joints(self, names: Sequence[str]) -> "_Row":
        """Of several hinges or sliders: qpos and qvel, (len(names),) each."""
        joints = [self.model.joint(name) for name in names]
        rows = {"qpos": [int(j.qposadr[0]) for j in joints]}
        rows["qvel"] = [int(j.dofadr[0]) for j in joints]
        return _Row(self, "", {f: np.array(at) for f, at in rows.items()})

    def sensors(self, names: Sequence[str]) -> "_Row":
        """Of several sensors: data, one after the other."""
        sensors = [self.model.sensor(name) for name in names]
        entries = [np.arange(s.dim[0]) + s.adr[0] for s in sensors]
        return _Row(self, "sensor", {"data": np.concatenate(entries)})

    def sensor(self, name: str) -> "_Row":
        """The slice of a sensor: data (dim,)."""
        sensor = self.model.sensor(name)
        start, dim = int(sensor.adr[0]), int(sensor.dim[0])
        return _Row(self, "sensor", {"data": slice(start, start + dim)})


_ELEMENTS = {
    "body": "body_",
    "joint": "jnt_",
    "geom": "geom_",
    "site": "site_",
    "actuator": "actuator_",
    "tendon": "tendon_",
}
_JOINT = mujoco.mjtJoint
_QPOS_WIDTH = {
    int(_JOINT.mjJNT_FREE): 7,
    int(_JOINT.mjJNT_BALL): 4,
    int(_JOINT.mjJNT_SLIDE): 1,
    int(_JOINT.mjJNT_HINGE): 1,
}
_DOF_WIDTH = {
    int(_JOINT.mjJNT_FREE): 6,
    int(_JOINT.mjJNT_BALL): 3,
    int(_JOINT.mjJNT_SLIDE): 1,
    int(_JOINT.mjJNT_HINGE): 1,
}


class _WorldModel:
    """A model some of whose arrays are a world's own."""

    def __init__(self, model: mujoco.MjModel, fields: Mapping[str, Any]):
        self._model, self._fields = model, fields

    def __getattr__(self, name: str) -> Any:
        if name in self._fields:
            return self._fields[name]
        value = getattr(self._model, name)
        if name == "opt":
            return _WorldOptions(value, self._fields)
        prefix = _ELEMENTS.get(name)
        if prefix is None:
            return value
        return lambda key: _WorldElement(value(key), prefix, self._fields)


class _WorldOptions:
    """The options of such a model: ``physics.model.opt.gravity`` is a world's own."""

    def __init__(self, options: Any, fields: Mapping[str, Any]):
        self._options, self._fields = options, fields

    def __getattr__(self, name: str) -> Any:
        own = f"opt.{name}"
        return self._fields[own] if own in self._fields else getattr(self._options, name)


class _WorldElement:
    """A named element of such a model: ``physics.model.geom("target").size`` is a world's own."""

    def __init__(self, element: Any, prefix: str, fields: Mapping[str, Any]):
        self._element, self._prefix, self._fields = element, prefix, fields

    def __getattr__(self, name: str) -> Any:
        own = self._prefix + name
        if own in self._fields:
            return self._fields[own][self._element.id]
        return getattr(self._element, name)


class _Row:
    """Attribute access to one element's row of every field."""

    def __init__(self, physics: Physics, prefix: str, index: int | dict[str, Any]):
        self._physics, self._prefix, self._index = physics, prefix, index

    def __getattr__(self, field: str) -> Any:
        index = self._index[field] if isinstance(self._index, dict) else self._index
        return getattr(self._physics, self._prefix + field)[index]
