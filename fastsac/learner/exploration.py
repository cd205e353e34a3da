"""Exploration noise that each world keeps for some steps: a body moves before it jitters."""

from typing import Any

import torch


class HeldNoise:
    """Standard normal numbers for actions, a world's drawn anew after k steps, P(k) ~ 1 / k^2.

    One step's noise is what it would be without; only its steps are not independent
    (FlashSAC has its noise so, with k up to 16).

    Args:
        num_envs: worlds.
        action_dim: length of an action.
        most: the greatest k.
        device: where it is drawn.
        seed: of both draws.
    """

    def __init__(self, num_envs: int, action_dim: int, most: int, device: torch.device, seed: int):
        self._generator = torch.Generator(device).manual_seed(seed)
        share = torch.arange(1, most + 1, device=device, dtype=torch.float64) ** -2.0
        self._up_to = (share.cumsum(0) / share.sum()).float()[:-1]
        self._noise = torch.zeros(num_envs, action_dim, device=device, dtype=torch.float32)
        self._left = torch.zeros(num_envs, device=device, dtype=torch.int64)

    def next(self) -> torch.Tensor:
        """Returns the noise (B, A) float32 of the next vector step; nothing is waited for."""
        normal = torch.empty_like(self._noise).normal_(generator=self._generator)
        uniform = torch.empty_like(self._noise[:, 0]).uniform_(generator=self._generator)
        ended = self._left == 0
        drawn = torch.searchsorted(self._up_to, uniform, right=True)  # k - 1
        self._left = torch.where(ended, drawn, self._left - 1)
        self._noise = torch.where(ended[:, None], normal, self._noise)
        return self._noise

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything that it goes on from."""
        return {
            "noise": self._noise,
            "left": self._left,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what state_dict returned, of as many worlds on the same kind of device.

        Raises:
            ValueError: it has another number of worlds.
        """
        if state["noise"].shape != self._noise.shape:
            raise ValueError(f"its noise is {tuple(state['noise'].shape)}")
        self._noise = state["noise"].to(self._noise.device)
        self._left = state["left"].to(self._left.device)
        self._generator.set_state(state["generator"])
