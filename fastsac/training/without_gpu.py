"""What a run made for a GPU is told where it has none: what that costs, and what suits a CPU."""

import dataclasses
import time
import warnings
from typing import Any

import torch

from fastsac.envs import VectorEnv
from fastsac.learner.replay import Batch
from fastsac.learner.sac import SAC
from fastsac.training.config import TrainConfig

# From so many worlds on they are more than a test; bench/README.md has what they cost on a CPU.
_MANY_WORLDS = 64
_UNITS = ((86_400, "days"), (3_600, "hours"), (60, "minutes"), (0, "s"))


def notice(config: TrainConfig, env: VectorEnv) -> str:
    """Returns the first line of a run that has no GPU though its settings are for one, or "".

    The time of an update is measured, which takes a few of them.
    """
    fast = config.preset == "fast" and env.device.type == "cpu"
    slow_worlds = env.engine_name in ("mjx", "warp") and env.engine.device.type == "cpu"
    slow_worlds = slow_worlds and env.num_envs >= _MANY_WORLDS
    if not (fast or slow_worlds):
        return ""
    why = "uses no GPU" if torch.cuda.is_available() else "has no GPU: torch sees none here"
    sentences = [f"fastsac: this run {why}"]
    if slow_worlds:
        sentences.append(
            f"{env.num_envs} worlds of {env.engine_name}, which on a CPU is for tests; --engine "
            "native is C MuJoCo on all cores"
        )
    if fast:
        count = (config.total_steps - config.learning_starts) // config.num_envs
        count *= config.updates_per_vector_step
        seconds = update_seconds(config, env)
        sentences.append(
            f"--preset fast is for one, and its {count:,} updates alone, without the physics, "
            f"take about {_shown(count * seconds)}, as one takes {seconds:.2g} s now"
        )
    command = f"fastsac train {config.task} --preset cpu"
    return "; ".join([*sentences, f"what suits a CPU: {command}"])


def update_seconds(config: TrainConfig, env: VectorEnv) -> float:
    """Measures an update of the run's size with a learner that is then forgotten."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run's own learner says it again
        sac = dataclasses.replace(config.sac, compile_updates=False)  # which takes longer than this
        agent = SAC(env.obs_dim, env.action_dim, sac, env.device, config.seed)
    wide = {"obs": env.obs_dim, "next_obs": env.obs_dim, "action": env.action_dim}
    shapes = (
        [config.batch_size, wide[k]] if k in wide else [config.batch_size] for k in Batch._fields
    )
    kind: Any = {"dtype": torch.float32, "device": env.device}
    batch = Batch(*(torch.full(shape, 0.5, **kind) for shape in shapes))
    agent.update(batch)  # the first warms up
    updates = config.sac.policy_delay  # with the actor's turn and without
    start = time.perf_counter()
    for _ in range(updates):
        agent.update(batch)
    return (time.perf_counter() - start) / updates


def _shown(seconds: float) -> str:
    size, unit = next(x for x in _UNITS if seconds >= 2 * x[0])
    return f"{seconds / max(size, 1):.2g} {unit}"
