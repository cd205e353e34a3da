"""What ``fastsac tasks`` prints."""

from fastsac.envs.registry import find, tasks
from fastsac.envs.suite import load, load_suite


def print_table(deviations: bool) -> None:
    """Prints a line a task: sizes and timing, and on request the MJX deviations."""
    print(f"{'task':26} {'obs':>4} {'action':>6} {'step':>8} {'episode':>8}")
    for name in tasks():
        task = find(name)
        suite = load_suite(task)
        spec = load(task, 0).observation_spec()
        obs = sum(int(part.shape[0]) if part.shape else 1 for part in spec.values())
        print(
            f"{name:26} {obs:>4} {suite.action_dim:>6} {suite.control_timestep * 1e3:>5.1f} ms "
            f"{suite.max_episode_steps:>8}"
        )
        if deviations:
            for sentence in task.mjx_deviations:
                print(f"{'':26}   mjx: {sentence}")
