"""Rows of the replay, split into their parts, observations normalised on the way.

    obs_b      = (rows[index_b, obs] - mean) / sqrt(var + epsilon)        next_obs likewise
    action_b   = rows[index_b, action]                                    reward, flags likewise

A row holds obs (O), action (A), reward, terminated, next_obs (O), weight and steps, one behind
the other (fastsac.learner.replay.Batch). Shapes: rows (C, 2 O + A + 4), index (B,) int64; mean, var
(O,). No gradient. float32, or float64 by the reference.
"""

from __future__ import annotations

import torch

from fastsac.kernels.compiler import cdiv, jit, next_power_of_2, require, run, tl

EPSILON = 1e-8  # added to the variance, for observations that never change
_TILE = 512  # elements a program
_MAX_COLUMNS = 256

Parts = tuple[torch.Tensor, ...]


@jit
def _copy(
    rows, first, part, mean, var, source, row, batch, width, NORMALIZE: tl.constexpr,
    COLUMNS: tl.constexpr, EPSILON: tl.constexpr,
):  # fmt: skip
    """Copies columns first ... first + width of the source rows to part (B, width)."""
    for start in range(0, width, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        mask = (row < batch)[:, None] & (column < width)[None, :]
        x = tl.load(rows + source[:, None] + first + column[None, :], mask)
        if NORMALIZE:
            shift = tl.load(mean + column, column < width, other=0.0)
            spread = tl.load(var + column, column < width, other=1.0)
            x = (x - shift[None, :]) * tl.rsqrt(spread + EPSILON)[None, :]
        tl.store(part + row[:, None] * width + column[None, :], x, mask)


@jit
def _forward(
    rows,  # (C, 2 O + A + 4)
    index,  # (B,) int64
    mean,  # (O,), or anything without NORMALIZE
    var,  # (O,), likewise
    obs,  # out (B, O)
    action,  # out (B, A)
    reward,  # out (B,)
    terminated,  # out (B,)
    next_obs,  # out (B, O)
    weight,  # out (B,)
    steps,  # out (B,)
    batch,
    obs_dim,
    action_dim,
    NORMALIZE: tl.constexpr,
    EPSILON: tl.constexpr,
    ROWS: tl.constexpr,
    OBS_COLUMNS: tl.constexpr,
    ACTION_COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < batch
    source = tl.load(index + row, inside, other=0) * (2 * obs_dim + action_dim + 4)
    _copy(rows, 0, obs, mean, var, source, row, batch, obs_dim, NORMALIZE, OBS_COLUMNS, EPSILON)
    first = obs_dim
    _copy(
        rows, first, action, mean, var, source, row, batch, action_dim, False, ACTION_COLUMNS,
        EPSILON,
    )  # fmt: skip
    first += action_dim
    tl.store(reward + row, tl.load(rows + source + first, inside), inside)
    tl.store(terminated + row, tl.load(rows + source + first + 1, inside), inside)
    first += 2
    _copy(
        rows, first, next_obs, mean, var, source, row, batch, obs_dim, NORMALIZE, OBS_COLUMNS,
        EPSILON,
    )  # fmt: skip
    first += obs_dim
    tl.store(weight + row, tl.load(rows + source + first, inside), inside)
    tl.store(steps + row, tl.load(rows + source + first + 1, inside), inside)


def fused(
    rows: torch.Tensor,
    index: torch.Tensor,
    action_dim: int,
    mean: torch.Tensor | None,
    var: torch.Tensor | None,
) -> Parts:
    """The kernel, on a GPU or in Triton's interpreter."""
    batch, obs_dim = len(index), (rows.shape[1] - action_dim - 4) // 2
    of_obs, scalar = (batch, obs_dim), (batch,)
    shapes = [of_obs, (batch, action_dim), scalar, scalar, of_obs, scalar, scalar]
    parts = tuple(rows.new_empty(shape) for shape in shapes)
    columns = min(next_power_of_2(obs_dim), _MAX_COLUMNS)
    tile_rows = _TILE // columns
    _forward[(cdiv(batch, tile_rows),)](
        rows,
        index,
        rows if mean is None else mean.contiguous(),
        rows if var is None else var.contiguous(),
        *parts,
        batch,
        obs_dim,
        action_dim,
        NORMALIZE=mean is not None,
        EPSILON=EPSILON,
        ROWS=tile_rows,
        OBS_COLUMNS=columns,
        ACTION_COLUMNS=min(next_power_of_2(action_dim), _MAX_COLUMNS),
    )
    return parts


def reference(
    rows: torch.Tensor,
    index: torch.Tensor,
    action_dim: int,
    mean: torch.Tensor | None,
    var: torch.Tensor | None,
) -> Parts:
    """The formula in torch."""
    obs_dim = (rows.shape[1] - action_dim - 4) // 2
    widths = [obs_dim, action_dim, 1, 1, obs_dim, 1, 1]
    parts = rows.index_select(0, index).split(widths, 1)
    obs, action, reward, terminated, next_obs, weight, steps = parts
    if mean is not None and var is not None:
        scale = torch.rsqrt(var + EPSILON)
        obs, next_obs = (obs - mean) * scale, (next_obs - mean) * scale
    return obs, action, reward[:, 0], terminated[:, 0], next_obs, weight[:, 0], steps[:, 0]


@torch.no_grad()
def replay_gather(
    rows: torch.Tensor,
    index: torch.Tensor,
    action_dim: int,
    mean: torch.Tensor | None = None,
    var: torch.Tensor | None = None,
) -> Parts:
    """Returns a row's parts: obs and next_obs (B, O), action (B, A), the others (B,).

    Args:
        rows: (C, 2 O + A + 4) contiguous.
        index: (B,) int64, each in [0, C); on a GPU not checked.
        action_dim: A.
        mean: (O,) that observations are shifted by; None leaves them as they are.
        var: (O,) whose root they are divided by; None with mean.

    Raises:
        ValueError: shapes that do not fit, or rows that are not contiguous.
    """
    obs_dim, odd = divmod(rows.shape[-1] - action_dim - 4, 2)
    if rows.dim() != 2 or odd or obs_dim < 1 or not rows.is_contiguous():
        raise ValueError(
            f"rows must be contiguous, (C, 2 O + {action_dim} + 4), got {tuple(rows.shape)}"
        )
    if index.dim() != 1 or index.dtype != torch.int64:
        raise ValueError(f"index must be (B,) int64, got {tuple(index.shape)} {index.dtype}")
    if (mean is None) != (var is None):
        raise ValueError("mean and var come together or not at all")
    for name, tensor in (("mean", mean), ("var", var)):
        if tensor is not None:
            require(name, tensor, (obs_dim,), rows)
    return run(rows, fused, reference, rows, index.contiguous(), action_dim, mean, var)
