"""The engines that step a task's worlds: C MuJoCo in threads; MuJoCo Warp, or MJX under jit."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from fastsac.envs.suite import Suite


class Step(NamedTuple):
    """One control step of all worlds, B = num_envs.

    Attributes:
        obs: (B, obs_dim) float32, the first of the next episode where one ended.
        final_obs: (B, obs_dim) float32, the observation that the step led to, before any reset.
        reward: (B,) float32.
        terminated: (B,) bool, the task ended the episode.
        truncated: (B,) bool, the time limit or a fault ended it.
        fault: (B,) uint8, one of ``outcome``'s where the reward and final_obs are zeros, else 0.
        done: (B,) bool, terminated or truncated.
    """

    obs: torch.Tensor
    final_obs: torch.Tensor
    reward: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    fault: torch.Tensor
    done: torch.Tensor

    @property
    def invalid(self) -> torch.Tensor:
        """(B,) bool, where there is a fault."""
        return self.fault > 0


class Engine(Protocol):
    """What VectorEnv needs of an engine; every array has one row a world."""

    suite: Suite
    name: str
    device: torch.device
    obs_dim: int
    autoreset: bool
    """Whether recv resets the worlds whose episode ended; set before the first step."""

    @property
    def compile_notice(self) -> str:
        """What reset and the first step will compile and about how long; empty for seconds."""

    @property
    def reset_bytes(self) -> int:
        """Of its device's memory that reset and step will take beyond what is taken, about."""

    @property
    def warnings(self) -> Mapping[str, int]:
        """MuJoCo's warnings so far by kind."""

    def reset(self, seed: int, clocks: np.ndarray) -> torch.Tensor:
        """Starts all episodes with these clocks (B,) and returns obs (B, obs_dim)."""

    def restart(self, worlds: np.ndarray, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """Starts new episodes in some worlds and returns obs (B, obs_dim) of all.

        Args:
            worlds: (B,) bool, at least one.
            seeds: one for each of these worlds, which then starts as the first world of that seed;
                None takes the next initial states of the sequence. The engine native only.
        """

    def send(self, action: torch.Tensor, overlap: bool = True) -> None:
        """Starts a control step with action (B, A) float32 on the engine's device.

        Without overlap an engine on the CPU may leave the work to recv: the caller comes at once.
        """

    def recv(self) -> Step:
        """Waits for the step that send started."""

    def clocks(self) -> torch.Tensor:
        """Returns a copy of the episodes' clocks (B,) int64; waits for the device."""

    def get_state(self) -> dict[str, torch.Tensor]:
        """Returns suite.state_fields and the model fields that are per world."""

    def set_state(self, state: dict[str, np.ndarray]) -> torch.Tensor:
        """Replaces these fields in all worlds, refreshes all else, and returns obs."""

    def state_dict(self) -> dict[str, Any]:
        """Returns all that the engine goes on from after reset, on the CPU: nothing is shared."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what state_dict returned, of the same task and number of worlds."""

    def check(self) -> None:
        """Raises what stopped the thread that draws initial states, if something has."""

    def close(self) -> None:
        """Ends the engine's threads."""
