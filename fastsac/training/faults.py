"""Transitions that are lost since what a task returned is no finite number."""

import torch

from fastsac.envs.outcome import BAD_OBSERVATION, BAD_REWARD

KINDS = {"observations": BAD_OBSERVATION, "rewards": BAD_REWARD}
_NONE = 2**62


class Faults:
    """Counts them by kind on the device, and knows the first of each.

    Args:
        num_envs: the number of worlds.
        device: the env's.
        first_world: the number of the first of them among those of all processes.

    Attributes:
        counts: (2,) int64, transitions of each of KINDS so far.
        first: (2,) int64, the first one's number: environment steps before its vector step, plus
            its world.
    """

    def __init__(self, num_envs: int, device: torch.device, first_world: int = 0):
        self._kinds = torch.tensor(list(KINDS.values()), dtype=torch.uint8, device=device)[:, None]
        self._worlds = first_world + torch.arange(num_envs, device=device)
        self.counts = torch.zeros(2, dtype=torch.int64, device=device)
        self.first = torch.full((2,), _NONE, dtype=torch.int64, device=device)

    def add(self, fault: torch.Tensor, steps: int) -> None:
        """Takes a vector step's faults (B,) and the environment steps before it."""
        found = fault == self._kinds
        self.counts += found.sum(dim=1)
        numbers = torch.where(found, self._worlds + steps, _NONE)
        torch.minimum(self.first, numbers.amin(dim=1), out=self.first)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Counts and firsts, copies."""
        return {"counts": self.counts.clone(), "first": self.first.clone()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Goes on from what state_dict returned."""
        self.counts.copy_(state["counts"])
        self.first.copy_(state["first"])
