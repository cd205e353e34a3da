"""Gradient updates per second of SAC, replay sampling included."""

from functools import partial
from typing import Any

import torch

from fastsac import SAC, ReplayBuffer, SACConfig
from fastsac.bench.harness import Case, closing

# The paper's setting, with cheetah's sizes.
OBS_DIM, ACTION_DIM = 17, 6
BATCHES = (256, 1024)
WIDTHS = (256,)
_TRANSITIONS = 100_000
_UPDATES_PER_REPETITION = {256: 100, 1024: 30}


def cases() -> list[Case]:
    """Batch size by width, on the GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return [
        Case(
            labels={"device": device, "batch_size": batch, "hidden_sizes": f"{width}-{width}"},
            unit="updates",
            open=partial(_open, device, batch, width),
        )
        for batch in BATCHES
        for width in WIDTHS
    ]


def _open(device: str, batch_size: int, width: int) -> Any:
    agent = SAC(OBS_DIM, ACTION_DIM, SACConfig(hidden_sizes=(width, width)), device)
    replay = ReplayBuffer(_TRANSITIONS, OBS_DIM, ACTION_DIM, device)
    generator = torch.Generator(device).manual_seed(0)
    normal = partial(torch.randn, device=device, generator=generator)
    replay.add(
        normal(_TRANSITIONS, OBS_DIM),
        normal(_TRANSITIONS, ACTION_DIM).tanh(),
        normal(_TRANSITIONS).sigmoid(),
        torch.zeros(_TRANSITIONS, device=device),
        normal(_TRANSITIONS, OBS_DIM),
    )

    def updates() -> int:
        count = _UPDATES_PER_REPETITION[batch_size]
        for _ in range(count):
            agent.update(replay.sample(batch_size))
        if device == "cuda":
            torch.cuda.synchronize()
        return count

    return closing(updates, lambda: None)
