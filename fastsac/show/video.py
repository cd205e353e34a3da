"""Films of a trained policy: the episodes that ``fastsac eval`` runs, rendered headless."""

import dataclasses
import math
import traceback
from pathlib import Path
from typing import Any

from fastsac.envs import NO_OPENGL
from fastsac.errors import ConfigError, RunError
from fastsac.runs.atomic_write import require_place, write_atomically
from fastsac.runs.policy_file import directory_of, load_policy
from fastsac.show.video_writers import Gif, Mp4, writer_for
from fastsac.training.config import EVAL_SEED
from fastsac.training.evaluation import in_dm_control, require_episodes
from fastsac.training.task_of_run import task_of

_MIN_SIDE, _MAX_SIDE = 16, 4096  # pixels


@dataclasses.dataclass(frozen=True)
class Shot:
    """What to film.

    Attributes:
        episodes: how many, one after another.
        camera: number or name of one of the model's cameras, "-1" for MuJoCo's free one; None is
            the model's first, or the free one where it has none.
        size: width and height in pixels.
        fps: frames a second; every k-th control step is a frame, with the k that comes nearest.
        seconds: what is filmed of each episode at most; the returns are of whole episodes.
        seed: of the initial states, as in fastsac.training.evaluation.
    """

    episodes: int = 1
    camera: str | None = None
    size: tuple[int, int] = (320, 240)
    fps: float = 25.0
    seconds: float = math.inf
    seed: int = EVAL_SEED

    def __post_init__(self) -> None:
        require_episodes(self.episodes, self.seed)
        if not _MIN_SIDE <= min(self.size) <= max(self.size) <= _MAX_SIDE:
            got = "{}x{}".format(*self.size)
            raise ConfigError(f"--size takes {_MIN_SIDE} to {_MAX_SIDE} pixels a side, got {got}")
        if not 1 <= self.fps < math.inf:
            raise ConfigError(f"--fps must be at least 1, got {self.fps:g}")
        if not self.seconds > 0:
            raise ConfigError(f"--seconds must be above 0, got {self.seconds:g}")


@dataclasses.dataclass(frozen=True)
class Film:
    """What was filmed.

    Attributes:
        returns: undiscounted, one per episode, those of ``fastsac eval``.
        diverged: episodes that ended early because the physics diverged.
        frames: how many.
        frame_seconds: each one's.
    """

    returns: tuple[float, ...]
    diverged: int
    frames: int
    frame_seconds: float


def record(run: str | Path, output: Path, shot: Shot) -> Film:
    """Films a trained policy in the real dm_control, in real time.

    Args:
        run: as load_policy takes it.
        output: the .gif or .mp4 to write; it appears whole or not at all.
        shot: what to film.

    Raises:
        UserError: no usable checkpoint, no such camera, nowhere to write, no OpenGL, or the
            library for such a file is missing.
    """
    crew = _Crew(shot, writer_for(output, shot.size))
    require_place(output)
    policy = load_policy(run)
    with task_of(directory_of(run), policy.task):
        returns, diverged = in_dm_control(policy, policy.task, shot.episodes, shot.seed, crew)
    try:
        write_atomically(output, crew.writer.encode())
    except OSError as error:
        raise RunError(str(error)) from error
    return Film(tuple(returns), diverged, crew.frames, crew.frame_seconds)


class _Crew:
    """Films the environments that it watches."""

    writer: Gif | Mp4

    def __init__(self, shot: Shot, writer: type[Gif] | type[Mp4]):
        self._shot, self._writer_class = shot, writer
        self._env, self.frames = None, 0

    def __call__(self, env: Any, step: int) -> None:
        """Takes a frame after so many control steps of an episode, if one is due."""
        if self._env is None:
            self._begin(env.control_timestep())
        if env is not self._env:
            self._env, self._camera = env, _set_up(env.physics, self._shot)
        if step % self._every == 0 and step < self._end:
            width, height = self._shot.size
            self.writer.add(env.physics.render(height, width, self._camera))
            self.frames += 1

    def _begin(self, timestep: float) -> None:
        self._every = steps_per_frame(
            timestep, self._shot.fps, self._writer_class.min_frame_seconds
        )
        self._end = round(self._shot.seconds / timestep, 6)  # in control steps, free of rounding
        self.frame_seconds = self._every * timestep
        self.writer = self._writer_class(self._shot.size, self.frame_seconds)


def steps_per_frame(timestep: float, fps: float, min_frame_seconds: float) -> int:
    """Returns how many control steps, of timestep seconds each, a frame lasts in real time."""
    return max(1, round(1 / (fps * timestep)), math.ceil(round(min_frame_seconds / timestep, 6)))


def _set_up(physics: Any, shot: Shot) -> int:
    """Makes physics render, and returns the camera's number."""
    camera = camera_number(physics.model, shot.camera)
    # Nothing larger than this can be rendered.
    physics.model.vis.global_.offwidth, physics.model.vis.global_.offheight = shot.size
    del type(physics).contexts  # `load` hides them, since an episode needs no OpenGL
    try:
        assert physics.contexts  # made at this access
    except Exception as error:  # each backend has its own, glfw's is mujoco.FatalError
        _let_go(error)
        raise _no_opengl(error) from error
    return camera


def _no_opengl(error: Exception) -> RunError:
    reason = " ".join((NO_OPENGL or str(error)).split()).rstrip(".")
    return RunError(
        f"OpenGL fails here ({reason}); on Debian apt-get install libegl1 libgl1-mesa-dri for EGL, "
        "or libosmesa6 for OSMesa and set MUJOCO_GL=osmesa"
    )


def _let_go(error: Exception) -> None:
    """Keeps what was not made from being freed, of which Python would print a traceback."""
    from dm_control.mujoco.wrapper.core import MjrContext  # once MUJOCO_GL is chosen

    for frame, _ in traceback.walk_tb(error.__traceback__):
        context = frame.f_locals.get("self")
        if isinstance(context, MjrContext) and not hasattr(context, "_ptr"):
            context._gl_context = None


def camera_number(model: Any, camera: str | None) -> int:
    """Returns the number of a dm_control model's camera, -1 for the free one.

    Args:
        model: physics.model.
        camera: as in Shot.

    Raises:
        ConfigError: the model has no such camera.
    """
    names = [model.id2name(i, "camera") for i in range(model.ncam)]
    if camera is None:
        return 0 if names else -1
    numbers = {str(i): i for i in range(-1, len(names))}
    numbers.update({name: i for i, name in enumerate(names) if name})
    if camera not in numbers:
        there = [
            "-1 (free)",
            *(f"{i} ({name})" if name else str(i) for i, name in enumerate(names)),
        ]
        raise ConfigError(f"there is no --camera {camera}; the model has {', '.join(there)}")
    return numbers[camera]
