"""Pictures of the worlds, as dm_control draws them."""

from typing import Any

import mujoco
import numpy as np

from fastsac.envs.initial_states import Rows
from fastsac.envs.model_fields import write_field
from fastsac.envs.suite import Suite, load


class Camera:
    """Looks at worlds through the model's first camera, or MuJoCo's free one where it has none.

    Args:
        suite: the task.
        width: of a picture, pixels.
        height: of a picture, pixels.

    Raises:
        RuntimeError: there is no OpenGL here.
    """

    def __init__(self, suite: Suite, width: int, height: int):
        self._width, self._height = width, height
        env = load(suite.task, 0)
        env.reset()  # which sizes reacher's target
        self._physics: Any = env.physics
        model = self._physics.model
        self._number = 0 if model.ncam else -1
        # Nothing larger than this can be rendered.
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        self._of_model = suite.model_fields
        del type(self._physics).contexts  # which `load` hides
        try:
            assert self._physics.contexts  # made at this access
        except Exception as error:  # each backend has its own
            reason = " ".join(str(error).split()).rstrip(".")
            raise RuntimeError(
                f"OpenGL fails here ({reason}); `fastsac doctor` says what rendering needs"
            ) from error

    def frames(self, state: Rows) -> tuple[np.ndarray, ...]:
        """Returns a picture a world, each (height, width, 3) uint8.

        Args:
            state: the fields of a state, each (B, ...).
        """
        return tuple(
            self._frame({k: v[world] for k, v in state.items()})
            for world in range(len(state["qpos"]))
        )

    def close(self) -> None:
        """Ends the use of OpenGL."""
        self._physics.free()

    def _frame(self, row: Rows) -> np.ndarray:
        physics = self._physics
        for name, value in row.items():
            if name in self._of_model:
                write_field(physics.model.ptr, name, value)
            elif np.ndim(getattr(physics.data.ptr, name)):
                getattr(physics.data.ptr, name)[...] = value
            else:  # time
                setattr(physics.data.ptr, name, float(value))
        physics.forward()
        if "hfield_data" in row:
            self._upload_terrain()
        return physics.render(self._height, self._width, self._number)

    def _upload_terrain(self) -> None:
        contexts = self._physics.contexts
        with contexts.gl.make_current() as context:
            context.call(mujoco.mjr_uploadHField, self._physics.model.ptr, contexts.mujoco.ptr, 0)
