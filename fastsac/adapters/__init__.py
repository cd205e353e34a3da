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
    """Raises ValueError where flatten or pixels, of names, ask ``fastsac.make`` for other obs."""
    asked = {
        "flatten": not of_make.get("flatten", True),
        "pixels": of_make.get("pixels") is not None,
    }
    for name in names:
        if asked[name]:
            raise ValueError(f"this adapter takes no {name}: no observations of that form")
