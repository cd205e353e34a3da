"""The replay buffer: one preallocated device tensor, a row a transition."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastsac.errors import ConfigError
from fastsac.kernels import replay_gather
from fastsac.learner.flat_weights import use_threads
from fastsac.learner.normalizer import RunningNorm
from fastsac.seeding import stream_seed
from fastsac.typed_fields import integers


class Batch(NamedTuple):
    """B transitions; obs and next_obs (B, obs_dim), action (B, A), the rest (B,), all float32.

    ``terminated`` and ``weight`` are 0 or 1; a transition of weight 0 teaches nothing. ``reward``
    sums those of ``steps`` control steps, discounted, and next_obs is what they led to.
    """

    obs: torch.Tensor
    action: torch.Tensor
    reward: torch.Tensor
    terminated: torch.Tensor
    next_obs: torch.Tensor
    weight: torch.Tensor
    steps: torch.Tensor


class ReplayBuffer:
    """A ring of transitions, sampled uniformly with replacement on its device.

    Write position and fill count are device tensors: adding and sampling never wait for the
    device.

    Args:
        capacity: transitions kept; the oldest are overwritten.
        obs_dim: length of an observation.
        action_dim: length of an action.
        device: where the rows live.
        seed: of the sampling.

    Attributes:
        added: transitions so far, those overwritten included; number n lies in row n % capacity.

    Raises:
        ConfigError: no positive integers, or the rows do not fit in the device's free memory;
            nothing was allocated.
    """

    def __init__(
        self,
        capacity: int,
        obs_dim: int,
        action_dim: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ):
        sizes = integers(capacity, obs_dim, action_dim)
        if not sizes or min(sizes) < 1:
            raise ConfigError(
                "capacity, obs_dim and action_dim of a replay must be positive integers"
            )
        self.capacity, self.obs_dim, self.action_dim = capacity, obs_dim, action_dim = sizes
        self._widths = (obs_dim, action_dim, 1, 1, obs_dim, 1, 1)  # of Batch's fields
        require_memory(capacity * row_bytes(obs_dim, action_dim), torch.device(device), capacity)
        use_threads(torch.device(device))
        shape = capacity, sum(self._widths)
        self.rows = torch.zeros(shape, dtype=torch.float32, device=device)
        self.device = self.rows.device  # with its number, which "cuda" lacks
        self.position = torch.zeros((), dtype=torch.int64, device=self.device)
        self.size = torch.zeros((), dtype=torch.int64, device=self.device)
        self.generator = torch.Generator(self.device).manual_seed(stream_seed(seed, "replay"))
        self.added = 0

    def __len__(self) -> int:
        """The number of transitions in the buffer."""
        return min(self.added, self.capacity)

    def add(
        self,
        obs: torch.Tensor,
        action: torch.Tensor,
        reward: torch.Tensor,
        terminated: torch.Tensor,
        next_obs: torch.Tensor,
        weight: torch.Tensor | None = None,
        steps: torch.Tensor | None = None,
    ) -> None:
        """Appends N transitions, overwriting the oldest.

        Args:
            obs: (N, obs_dim).
            action: (N, A).
            reward: (N,).
            terminated: (N,) bool or float; truncation is not termination.
            next_obs: (N, obs_dim), the observation the step led to, before any reset.
            weight: (N,) bool or float, 0 for invalid transitions; None is all ones.
            steps: (N,) control steps that the reward sums; None is all ones.

        Raises:
            TypeError: something is no tensor of real numbers.
            ValueError: wrong shapes, or more rows than the capacity.
            RuntimeError: on another device.
        """
        use_threads(self.device)
        for name, x in zip(
            Batch._fields, (obs, action, reward, terminated, next_obs), strict=False
        ):
            _require_real(name, x)
        weight, steps = (torch.ones_like(reward) if x is None else x for x in (weight, steps))
        _require_real("weight", weight)
        _require_real("steps", steps)
        reward, terminated, weight, steps = (
            x[..., None] for x in (reward, terminated, weight, steps)
        )
        columns = [obs, action, reward, terminated, next_obs, weight, steps]
        count = obs.shape[0] if obs.dim() else 0
        for name, column, width in zip(Batch._fields, columns, self._widths, strict=True):
            if tuple(column.shape) != (count, width):
                got = tuple(column.shape)
                if name not in ("obs", "action", "next_obs"):  # widened above
                    width, got = 0, got[:-1]
                shape = (count, width) if width else (count,)
                raise ValueError(f"{name} must have shape {shape}, got {got}")
        if count > self.capacity:
            raise ValueError(f"{count} transitions do not fit a replay of {self.capacity}")
        index = (self.position + torch.arange(count, device=self.device)) % self.capacity
        self.rows.index_copy_(0, index, torch.cat([c.to(self.rows.dtype) for c in columns], dim=1))
        self.position.add_(count).remainder_(self.capacity)
        self.size.add_(count).clamp_(max=self.capacity)
        self.added += count

    def sample(self, batch_size: int, normalizer: RunningNorm | None = None) -> Batch:
        """Draws batch_size transitions uniformly, with replacement.

        Args:
            batch_size: B.
            normalizer: standardises obs and next_obs on the way; None leaves them as they are.

        Raises:
            ValueError: the buffer is empty, or batch_size no positive integer.
        """
        use_threads(self.device)
        (count,) = integers(batch_size) or (0,)
        if count < 1:
            raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
        batch_size = count
        if self.added == 0:
            raise ValueError("cannot sample from an empty replay buffer")
        # float64: float32 has 2**24 steps in [0, 1), too few for a large buffer.
        uniform = torch.rand(
            batch_size, dtype=torch.float64, device=self.device, generator=self.generator
        )
        index = (uniform * self.size).long()
        statistics = (normalizer.mean, normalizer.var) if normalizer else ()
        return Batch(*replay_gather(self.rows, index, self.action_dim, *statistics))

    def state_dict(self) -> dict[str, Any]:
        """The sampling's state and the number added; the rows are not part of it."""
        return {"generator": self.generator.get_state(), "added": self.added}

    def load_state_dict(
        self, state: dict[str, Any], parts: Iterable[tuple[int, torch.Tensor]] | None
    ) -> None:
        """Goes on from what state_dict returned.

        Args:
            state: of a buffer of the same capacity, on the same kind of device.
            parts: what ``rows_from`` returned, each with its start, so that together they reach
                from the oldest row kept to the newest; None leaves the buffer empty.

        Raises:
            ValueError: rows are missing, or of another width.
        """
        self.generator.set_state(state["generator"])
        self.added = state["added"] if parts is not None else 0
        reached = oldest = self.added - len(self)
        for start, rows in parts or ():
            if start > reached or rows.shape[1:] != self.rows.shape[1:]:
                raise ValueError(f"{tuple(rows.shape)} rows from {start} on do not fit the replay")
            kept = rows[max(0, oldest - start) :]
            end = start + len(rows)
            index = torch.arange(end - len(kept), end, device=self.device) % self.capacity
            self.rows[index] = kept.to(self.device)
            reached = start + len(rows)
        if reached != self.added:
            raise ValueError(f"rows up to {reached} of {self.added} are not all of the replay's")
        self.size.fill_(len(self))
        self.position.fill_(self.added % self.capacity)

    def rows_from(self, start: int) -> torch.Tensor:
        """Returns the rows (added - start, width) of the transitions from number start on, copied.

        Args:
            start: at least that of the oldest transition that is kept.
        """
        index = torch.arange(start, self.added, device=self.device) % self.capacity
        return self.rows[index].cpu()


def _require_real(name: str, x: torch.Tensor) -> None:
    if not isinstance(x, torch.Tensor) or x.is_complex() or x.is_sparse:
        raise TypeError(f"{name} must be a dense tensor of real numbers, got {type(x).__name__}")


def row_bytes(obs_dim: int, action_dim: int) -> int:
    """Returns the bytes of a transition."""
    return 4 * (2 * obs_dim + action_dim + 4)


def require_memory(needed: int, device: torch.device, capacity: int) -> None:
    """Refuses a replay buffer that cannot fit.

    Args:
        needed: bytes of the rows.
        device: where they would live.
        capacity: transitions, for the message.

    Raises:
        ConfigError: with the bytes asked and the bytes free.
    """
    free = free_bytes(device)
    if needed > free:
        raise ConfigError(
            f"--replay-capacity {capacity} asks for {needed / 1e9:.2f} GB ({needed} bytes) on "
            f"{device} and {free / 1e9:.2f} GB ({free} bytes) are free; lower it"
        )


def free_bytes(device: torch.device) -> int:
    """Returns the bytes that may still be taken on a device, within a container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable:")) * 1024
    group = Path("/sys/fs/cgroup")  # a container's limit
    if (group / "memory.max").is_file() and (group / "memory.current").is_file():
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            free = min(free, int(limit) - int((group / "memory.current").read_text()))
    return free
