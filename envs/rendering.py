"""Pictures of the worlds, as dm_control draws them."""

import copy
import os
from collections.abc import Callable, Sequence
from typing import Any

import mujoco
import numpy as np
from dm_control.mujoco import Physics
from dm_control.mujoco.wrapper import MjModel

from fastsac.envs.helper_process import HelperProcess, answer
from fastsac.envs.initial_states import Rows
from fastsac.envs.model_fields import write_field
from fastsac.envs.suite import Suite

_WORLDS = 4  # for which another process, which takes two seconds to start, is worth it


class Camera:
    """Looks at worlds through the model's first camera, or MuJoCo's free one where it has none.

    Args:
        model: of all worlds.
        fields: the names of its arrays and options that are per world.
        width: of a picture, pixels.
        height: of a picture, pixels.

    Raises:
        RuntimeError: there is no OpenGL here.
    """

    def __init__(self, model: mujoco.MjModel, fields: Sequence[str], width: int, height: int):
        self._width, self._height, self._of_model = width, height, fields
        self._number = 0 if model.ncam else -1
        model = copy.copy(model)
        # Nothing larger than this can be rendered.
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        self._physics: Any = Physics.from_model(MjModel(model))
        try:
            _ = self._physics.contexts  # made at this access
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


class Cameras:
    """Looks at many worlds, with up to a process a core.

    In processes, since OpenGL belongs to the thread that began it, and drawing to Python's lock.

    Args:
        suite: the task.
        num_envs: the number of worlds.
        height: of a picture, pixels.
        width: of a picture, pixels.

    Raises:
        RuntimeError: there is no OpenGL here.
    """

    def __init__(self, suite: Suite, num_envs: int, height: int, width: int):
        self._count = min(-(-num_envs // _WORLDS), len(os.sched_getaffinity(0)))
        self._of_camera = suite.model, suite.model_fields, width, height
        self._helpers: list[HelperProcess] = []
        self._start()

    def frames(self, state: Rows) -> np.ndarray:
        """Returns the pictures (n, height, width, 3) uint8 of n worlds.

        Raises:
            RuntimeError: a process has ended; the next call starts others.
        """
        if not self._helpers:
            self._start()
        worlds = np.array_split(np.arange(len(state["qpos"])), len(self._helpers))
        rows = [({k: v[at] for k, v in state.items()},) for at in worlds if at.size]
        return np.concatenate(self._asked(rows))

    def close(self) -> None:
        """Ends the processes."""
        for helper in self._helpers:
            helper.close()
        self._helpers = []

    def _start(self) -> None:
        self._helpers = [HelperProcess(__name__) for _ in range(self._count)]
        self._asked([self._of_camera] * self._count)

    def _asked(self, requests: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Returns the answers to a request to each of the first processes, all at once."""
        helpers = self._helpers[: len(requests)]
        try:
            for helper, request in zip(helpers, requests, strict=True):
                helper.send(*request)
            return [helper.receive() for helper in helpers]
        except BaseException as error:
            self.close()  # answers that nobody took would be those to the next requests
            if isinstance(error, EOFError | OSError):
                raise RuntimeError("a process that rendered has ended") from error
            raise


def serve() -> None:
    """Renders for a HelperProcess, until that goes."""

    def begin(*of_camera: Any) -> Callable[[Rows], np.ndarray]:
        camera = Camera(*of_camera)
        return lambda state: np.stack(camera.frames(state))

    answer(begin)
