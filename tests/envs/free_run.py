"""What float32 costs an engine that runs freely beside C MuJoCo in float64."""

import numpy as np

from fastsac.envs.registry import find

# Largest difference of a world's qpos (m, rad) and observation from C MuJoCo's in float64 within
# ten control steps of a free run in float32, the median of four worlds and the worst. An impact
# divides float32's 1e-7 by its time step, and touch, force and acceleration are forces.
FREE_RUN = {  # domain, or task: (qpos median, qpos worst, observation median)
    "acrobot": (1e-6, 2e-6, 5e-6),
    "ball_in_cup": (1e-5, 1e-4, 1e-4),
    "cartpole": (1e-6, 2e-6, 5e-6),
    "cheetah": (1e-5, 1e-4, 1e-3),
    "finger": (1e-4, 1e-3, 1e-3),
    "fish": (1e-5, 1e-4, 1e-4),
    "hopper": (1e-5, 1e-4, 1e-3),
    "humanoid": (1e-4, 1e-2, 1e-2),
    "humanoid_CMU": (1e-4, 1e-2, 1e-2),
    "lqr": (1e-6, 2e-6, 5e-6),
    "manipulator": (1e-4, 1e-2, 1e-2),
    "pendulum": (1e-6, 2e-6, 5e-6),
    "point_mass": (1e-6, 2e-6, 5e-6),
    "quadruped": (1e-3, 1e-1, 10.0),
    "reacher": (1e-6, 2e-6, 5e-6),
    "stacker": (1e-3, 1e-1, 1e-2),
    "swimmer": (1e-5, 1e-4, 1e-4),
    "walker": (1e-5, 1e-4, 1e-3),
    # Measured 1.2e-3: the ball, which touches the floor from the start.
    "quadruped_fetch": (5e-3, 1e-1, 10.0),
    # Measured 2.6e-4 and 2.6e-3: two of the four balls touch something, and touch is observed.
    "manipulator_insert_ball": (1e-3, 1e-2, 0.3),
    # Measured 1.2e-4: rounding grows along a chain of 15 links.
    "swimmer_swimmer15": (5e-4, 1e-3, 5e-3),
}

# Where the engine warp has figures of its own.
OF_WARP = {
    # Measured 2.4e-4, 9e-4 and 3e-2, and on a GPU, where contacts come in any order, 1.7e-2 once:
    # four paws on the ground, touch and force observed.
    "dog": (5e-4, 5e-2, 0.3),
    # Measured 5.5e-3.
    "quadruped_fetch": (1e-2, 1e-1, 10.0),
}


def require_float32(
    task: str, errors: dict[str, np.ndarray], figures: dict[str, tuple[float, float, float]]
) -> None:
    """Fails where the largest differences of the worlds are beyond the task's figures.

    Args:
        task: a task's name.
        errors: "qpos" (B,) and "obs" (B,).
        figures: FREE_RUN, with an engine's own.
    """
    median, worst, obs_median = figures.get(task) or figures[find(task).domain]
    assert np.median(errors["qpos"]) <= median and errors["qpos"].max() <= worst, errors
    assert np.median(errors["obs"]) <= obs_median, errors
