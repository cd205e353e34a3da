"""The vector env in the shapes that other libraries take, a module each.

A world whose physics diverged ends its episode without a last observation, so every adapter hands
it out as terminated: nothing bootstraps from the zeros that stand in its place.
"""

from typing import Any

import torch


def ends(
    terminated: torch.Tensor, truncated: torch.Tensor, info: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns terminated and truncated (B,), diverged worlds among the first alone."""
    invalid = info["invalid"]
    return terminated | invalid, truncated & ~invalid


def require_flat(of_make: dict[str, Any], *names: str) -> None:
    """Raises ValueError where arguments of ``fastsac.make``, one of names, ask for other obs."""
    for name in names:
        if name in of_make:
            raise ValueError(f"this adapter hands out flat observations: no {name}")
