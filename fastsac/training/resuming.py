"""Brings a run to where its checkpoint left it."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

from fastsac.errors import CheckpointError, RunError
from fastsac.learner.policy import Policy
from fastsac.runs.checkpoint_file import MISFITS
from fastsac.runs.checkpoints import Resumed
from fastsac.runs.directory import CONFIG, RESULT, RunDirectory
from fastsac.training.config import TrainConfig
from fastsac.training.memory_plan import out_of_memory
from fastsac.training.ranks import Ranks
from fastsac.training.state import TrainingState


def load(
    loaded: Resumed, config: TrainConfig, state: TrainingState, directory: RunDirectory
) -> tuple[list[tuple[Policy, dict[str, float]]], float]:
    """Loads a checkpoint and makes the run's directory that of a run under way.

    Args:
        loaded: the checkpoint.
        config: the run's, with its changes.
        state: of that configuration, new.
        directory: the run's.

    Returns:
        What is to be evaluated again, each policy with its counters, and the highest mean return
        until then.

    Raises:
        CheckpointError: it does not fit the run.
        RunError: the run has done its steps, or its directory cannot be written.
    """
    saved = loaded.state
    try:
        state.load_state_dict(saved, loaded.rows())
        best = float(saved["best"])
        done = state.steps >= config.total_steps
        sizes = state.env.obs_dim, state.env.action_dim
        snapshots = [
            (Policy(config.task, *sizes, config.sac, *actor.values()), counters)
            for actor, counters in saved["evaluations"] + ([] if done else saved["skipped"])
        ]
    except MISFITS as error:
        if out_of_memory(error, config):
            raise
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"the checkpoint does not fit the run {directory.path}: {reason}"
        ) from error
    result = directory.path / RESULT
    if done and result.exists():
        raise RunError(
            f"{directory.path} has done its {state.steps:,} steps: give a higher --total-steps"
        )
    try:
        directory.write(CONFIG, dataclasses.asdict(config))
        result.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to the run {directory.path}: {error}") from error
    return snapshots, best


def send_parts(loaded: Resumed, ranks: Ranks) -> None:
    """Hands each other rank its part of the checkpoint, and its replay file by file."""
    for rank in range(1, ranks.size):
        rows = loaded.rows(rank)
        ranks.send((loaded.part(rank), rows is not None), rank)
        for part in rows or ():
            ranks.send(part, rank)
        if rows is not None:
            ranks.send(None, rank)


def load_part(state: TrainingState) -> None:
    """Takes what rank 0 sends of the checkpoint.

    Raises:
        CheckpointError: it does not fit the run.
    """

    def rows() -> Iterator[tuple[int, torch.Tensor]]:
        while (part := state.ranks.receive(0)) is not None:
            yield part

    saved: dict[str, Any]
    saved, has_rows = state.ranks.receive(0)
    try:
        state.load_state_dict(saved, rows() if has_rows else None)
    except MISFITS as error:
        raise CheckpointError(
            f"the checkpoint does not fit rank {state.ranks.rank}: {error}"
        ) from error
