"""What the engines take from dm_control: the compiled model, the timing and the action range."""

import copy
import dataclasses
import math
from typing import Any

import mujoco
import numpy as np
from dm_control import suite as dm_suite

from fastsac.envs.registry import Task


def load(task: Task, seed: int) -> Any:
    """Returns dm_control's own environment of the task, its random state seeded with seed."""
    return dm_suite.load(task.domain, task.name, task_kwargs={"random": seed})


@dataclasses.dataclass(frozen=True)
class Suite:
    """A task with the constants that dm_control's environment defines for it.

    Attributes:
        task: the task's functions.
        model: the compiled model, as dm_control leaves it after an episode's initialisation.
        substeps: physics steps per control step.
        max_episode_steps: control steps until the time limit truncates.
        action_low: (A,) float64, dm_control's action_spec minimum.
        action_high: (A,) float64, its maximum.
    """

    task: Task
    model: mujoco.MjModel
    substeps: int
    max_episode_steps: int
    action_low: np.ndarray
    action_high: np.ndarray

    def control(self, action: Any) -> Any:
        """Maps actions (..., A) in [-1, 1], numpy or jax, to the actuators' ranges."""
        middle = (self.action_high + self.action_low) / 2
        half = (self.action_high - self.action_low) / 2
        return middle.astype(action.dtype) + half.astype(action.dtype) * action

    @property
    def action_dim(self) -> int:
        """The number of actuators."""
        return self.action_low.size

    @property
    def control_timestep(self) -> float:
        """Seconds of simulated time per control step."""
        return self.model.opt.timestep * self.substeps

    def initial_fields(self) -> tuple[str, ...]:
        """The names of the arrays that make up an initial state, the model's own last."""
        return ("qpos", "qvel", "act", *self.task.randomised)


def load_suite(task: Task) -> Suite:
    """Loads the task's dm_control environment once and reads its constants."""
    env = load(task, seed=0)
    env.reset()
    spec = env.action_spec()
    steps = env._step_limit  # dm_control has no public name for it
    return Suite(
        task=task,
        model=copy.copy(env.physics.model.ptr),
        substeps=round(env.control_timestep() / env.physics.timestep()),
        max_episode_steps=math.ceil(steps) if math.isfinite(steps) else 2**30,
        action_low=np.broadcast_to(spec.minimum, spec.shape).astype(np.float64),
        action_high=np.broadcast_to(spec.maximum, spec.shape).astype(np.float64),
    )
