"""What ``fastsac tasks`` prints."""

import collections
import itertools

from fastsac.envs.registry import Task, families, find, tasks
from fastsac.envs.suite import load_suite


def print_table() -> None:
    """Prints a line a task, and after each domain what a GPU's engines do otherwise."""
    print(f"{'task':26} {'obs':>4} {'action':>6} {'step':>8} {'episode':>8}  engines")
    for _, domain in itertools.groupby(map(find, tasks()), key=lambda task: task.domain):
        entries = list(domain)
        for task in entries:
            _print_line(task)
        sentences = [s for t in entries if not t.mjx_refusal for s in t.mjx_deviations]
        for sentence in dict.fromkeys(sentences):
            print(f"{'':26} mjx: {sentence}")
        refused = collections.defaultdict(list)
        for task in entries:
            for engine, reason in task.refusals.items():
                if reason:
                    refused[engine, reason].append(task.full_name)
        for (engine, reason), names in refused.items():
            print(f"{'':26} no {engine} for {', '.join(names)}: {reason}")
    print(f"by number: {', '.join(families())}")


def _print_line(task: Task) -> None:
    suite = load_suite(task)
    endless = suite.max_episode_steps > 1e6
    print(
        f"{task.full_name:26} {suite.obs_dim:>4} {suite.action_dim:>6} "
        f"{suite.control_timestep * 1e3:>5.1f} ms "
        f"{'endless' if endless else suite.max_episode_steps:>8}  "
        f"{', '.join(['native', *task.gpu_engines])}",
        flush=True,
    )
