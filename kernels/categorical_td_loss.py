"""The soft temporal-difference loss of categorical critics: projection and cross entropy in one.

A critic's logits (N,) stand for a distribution of returns over the atoms z_j = v_min + j D with
D = (v_max - v_min) / (N - 1). The target distribution moves the next state's atoms and projects
them back (C51, arXiv 1707.06887, eq. 7), with SAC's entropy term (arXiv 1812.05905, eq. 3):

    z'_i   = clip(r + discount (1 - terminated) (z_i - alpha log pi(a'|s')), v_min, v_max)
    t_j    = sum_i p_i max(0, 1 - |z'_i - z_j| / D)
    loss_e = - sum_j t_j log softmax(logits_e)_j

p is, with "min", the distribution of the target critic whose mean is least (clipped double Q), and
with "mean" the average of the critics' distributions. Gradient, with g_e that of loss_e:

    d/dlogits_ej = g_e (softmax(logits_e)_j - t_j)

The target is held constant. Shapes: logits, next_logits (E, B, N); loss (E, B); all else (B,),
alpha (). float32 or float64; the kernels take float32. The backward pass recomputes the softmax
from the largest logit and the logarithm of the sum (E, B), and reads t (B, N).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from fastsac.kernels.compiler import jit, next_power_of_2, require, run, tl
from fastsac.kernels.soft_td_target import Reduction

_Pair = tuple[torch.Tensor, torch.Tensor]
_CHUNK = 16  # target atoms that a program computes at a time
# One warp sums over atoms without shared memory; a larger tile has no room in its registers.
_TILE_OF_A_WARP = 2048


class Atoms(NamedTuple):
    """The support of the critics' distributions: num atoms from v_min to v_max, equally spaced."""

    num: int
    v_min: float
    v_max: float

    @property
    def spacing(self) -> float:
        """The distance between two atoms."""
        return (self.v_max - self.v_min) / (self.num - 1)

    def values(self, like: torch.Tensor) -> torch.Tensor:
        """Returns the atoms (N,) in the dtype and on the device of ``like``."""
        return torch.linspace(
            self.v_min, self.v_max, self.num, dtype=like.dtype, device=like.device
        )


class Transitions(NamedTuple):
    """What moves the next state's atoms: all (B,), alpha () and discount () or (B,)."""

    reward: torch.Tensor
    terminated: torch.Tensor
    next_log_prob: torch.Tensor
    alpha: torch.Tensor
    discount: torch.Tensor


@jit
def _forward(
    logits,  # (E, B, N) contiguous, as are all
    next_logits,  # (E, B, N)
    reward,  # (B,)
    terminated,  # (B,)
    next_log_prob,  # (B,)
    alpha,  # ()
    discount,  # (B,), or () with discount_stride 0
    loss,  # out (E, B)
    most,  # out (E, B): max_j logits_j
    log_total,  # out (E, B): log sum_j exp(logits_j - most)
    target,  # out (B, N)
    batch,
    discount_stride,
    v_min,
    v_max,
    E: tl.constexpr,
    N: tl.constexpr,
    E_PADDED: tl.constexpr,
    N_PADDED: tl.constexpr,
    MEAN: tl.constexpr,
    CHUNK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    member = tl.arange(0, E_PADDED)
    atom = tl.arange(0, N_PADDED)
    spacing = (v_max - v_min) / (N - 1)
    z = v_min + atom * spacing
    here = (member[:, None] * batch + row) * N + atom[None, :]
    inside = (member < E)[:, None] & (atom < N)[None, :]

    # The next state's distribution.
    x = tl.load(next_logits + here, inside, other=-float("inf"))
    x = tl.where((member < E)[:, None], x - tl.max(x, axis=1)[:, None], -float("inf"))
    p = tl.exp(x)
    p = p / tl.where(member < E, tl.sum(p, axis=1), 1.0)[:, None]
    if MEAN:
        p = tl.sum(p, axis=0) / E
    else:
        mean = tl.where(member < E, tl.sum(p * z[None, :], axis=1), float("inf"))
        # As torch's argmin: a NaN counts as the least.
        least = tl.argmin(tl.where(mean == mean, mean, -float("inf")), axis=0)
        p = tl.sum(tl.where((member == least)[:, None], p, 0.0), axis=0)

    # Where its atoms go.
    share = tl.load(discount + row * discount_stride) * (1.0 - tl.load(terminated + row))
    moved = tl.load(reward + row) + share * (z - tl.load(alpha) * tl.load(next_log_prob + row))
    position = (tl.clamp(moved, v_min, v_max, propagate_nan=tl.PropagateNan.ALL) - v_min) / spacing

    # The critics' distribution, and the cross entropy with each chunk of the target.
    x = tl.load(logits + here, inside, other=-float("inf"))
    top = tl.where(member < E, tl.max(x, axis=1), 0.0)
    total = tl.sum(tl.exp(x - top[:, None]), axis=1)
    rest = tl.log(tl.where(member < E, total, 1.0))
    cross = tl.zeros([E_PADDED], tl.float32)
    for start in range(0, N, CHUNK):
        j = start + tl.arange(0, CHUNK)
        distance = tl.abs(position[None, :] - j[:, None])
        near = tl.maximum(1.0 - distance, 0.0, propagate_nan=tl.PropagateNan.ALL)
        t = tl.sum(p[None, :] * near, axis=1)
        tl.store(target + row * N + j, t, j < N)
        at = (member[:, None] * batch + row) * N + j[None, :]
        mask = (member < E)[:, None] & (j < N)[None, :]
        logit = tl.load(logits + at, mask, other=0.0)
        # From the largest logit on: a common part of all of them would cancel, digits with it.
        cross += tl.sum(tl.where(mask, t[None, :] * (logit - top[:, None]), 0.0), axis=1)
    tl.store(most + member * batch + row, top, member < E)
    tl.store(log_total + member * batch + row, rest, member < E)
    tl.store(loss + member * batch + row, rest - cross, member < E)


@jit
def _backward(
    logits,  # (E, B, N) contiguous, as are all
    most,  # (E, B)
    log_total,  # (E, B)
    target,  # (B, N)
    loss_grad,  # (E, B)
    logits_grad,  # out (E, B, N)
    batch,
    N: tl.constexpr,
    N_PADDED: tl.constexpr,
):
    row, member = tl.program_id(0).to(tl.int64), tl.program_id(1)
    atom = tl.arange(0, N_PADDED)
    flat = member * batch + row
    x = tl.load(logits + flat * N + atom, atom < N, other=0.0)
    t = tl.load(target + row * N + atom, atom < N, other=0.0)
    p = tl.exp((x - tl.load(most + flat)) - tl.load(log_total + flat))
    tl.store(logits_grad + flat * N + atom, tl.load(loss_grad + flat) * (p - t), atom < N)


def _launch_forward(
    logits: torch.Tensor,
    next_logits: torch.Tensor,
    transitions: Transitions,
    atoms: Atoms,
    reduction: Reduction,
) -> tuple[torch.Tensor, ...]:
    """Returns loss, and for the backward pass most and log_total (E, B) and target (B, N)."""
    members, batch, num = logits.shape
    loss, most, log_total = (logits.new_empty(members, batch) for _ in range(3))
    target = logits.new_empty(batch, num)
    rows, columns = next_power_of_2(members), next_power_of_2(num)
    _forward[(batch,)](
        logits,
        next_logits.contiguous(),
        *(x.contiguous() for x in transitions),
        loss,
        most,
        log_total,
        target,
        batch,
        transitions.discount.dim(),
        atoms.v_min,
        atoms.v_max,
        E=members,
        N=num,
        E_PADDED=rows,
        N_PADDED=columns,
        MEAN=reduction == "mean",
        CHUNK=_CHUNK,
        num_warps=min(max(max(rows, _CHUNK) * columns // _TILE_OF_A_WARP, 1), 8),
    )
    return loss, most, log_total, target


def _launch_backward(
    logits: torch.Tensor, saved: list[torch.Tensor], loss_grad: torch.Tensor
) -> torch.Tensor:
    """Returns the gradient of logits (E, B, N)."""
    members, batch, num = logits.shape
    logits_grad = torch.empty_like(logits)
    _backward[(batch, members)](
        logits,
        *saved,
        loss_grad.contiguous(),
        logits_grad,
        batch,
        N=num,
        N_PADDED=next_power_of_2(num),
        num_warps=1,
    )
    return logits_grad


class _CategoricalTdLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, *others: Any) -> torch.Tensor:
        logits = logits.contiguous()
        loss, *saved = _launch_forward(logits, *others)
        ctx.save_for_backward(logits, *saved)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, loss_grad: torch.Tensor) -> Any:
        logits, *saved = ctx.saved_tensors
        return _launch_backward(logits, saved, loss_grad), None, None, None, None


def fused(logits: torch.Tensor, *others: Any) -> torch.Tensor:
    """The kernels, on a GPU or in Triton's interpreter."""
    return _CategoricalTdLoss.apply(logits, *others)


def fused_gradient(loss_grad: torch.Tensor, logits: torch.Tensor, *others: Any) -> _Pair:
    """The kernels one after the other: the loss and the gradient of the logits."""
    logits = logits.contiguous()
    loss, *saved = _launch_forward(logits, *others)
    return loss, _launch_backward(logits, saved, loss_grad)


def reference(
    logits: torch.Tensor,
    next_logits: torch.Tensor,
    transitions: Transitions,
    atoms: Atoms,
    reduction: Reduction,
) -> torch.Tensor:
    """The formulas in torch; autograd differentiates the cross entropy."""
    with torch.no_grad():
        target = _projected(next_logits, transitions, atoms, reduction)
    return -(target * F.log_softmax(logits, dim=-1)).sum(-1)


def reference_gradient(loss_grad: torch.Tensor, logits: torch.Tensor, *others: Any) -> _Pair:
    """The loss and the gradient of the logits by the formulas."""
    target = _projected(*others)
    log_p = F.log_softmax(logits, dim=-1)
    return -(target * log_p).sum(-1), log_p.exp().sub_(target).mul_(loss_grad[..., None])


def _projected(
    next_logits: torch.Tensor, transitions: Transitions, atoms: Atoms, reduction: Reduction
) -> torch.Tensor:
    """Returns the target distribution (B, N): each moved atom is shared by its two neighbours."""
    z = atoms.values(next_logits)
    p = F.softmax(next_logits, dim=-1)
    if reduction == "mean":
        p = p.mean(dim=0)
    else:
        least = (p * z).sum(-1).argmin(dim=0)
        p = p[least, torch.arange(p.shape[1], device=p.device)]
    reward, terminated, next_log_prob, alpha, discount = transitions
    share = (discount * (1 - terminated))[:, None]
    moved = reward[:, None] + share * (z - (alpha * next_log_prob)[:, None])
    position = (moved.clamp(atoms.v_min, atoms.v_max) - atoms.v_min) / atoms.spacing
    # A NaN, of a diverged critic, must not become an index.
    lower = position.floor().nan_to_num(0).clamp(0, atoms.num - 2)
    upper_share = position - lower
    target = torch.zeros_like(p).scatter_add_(1, lower.long(), p * (1 - upper_share))
    return target.scatter_add_(1, lower.long() + 1, p * upper_share)


def categorical_td_loss(
    logits: torch.Tensor,
    next_logits: torch.Tensor,
    transitions: Transitions,
    atoms: Atoms,
    reduction: Reduction = "min",
) -> torch.Tensor:
    """Returns each critic's cross entropy (E, B) with the projected target, differentiably.

    Args:
        logits: (E, B, N) of Q(s, a).
        next_logits: (E, B, N) of the target critics, at an action of the current policy.
        transitions: rewards, terminations, log probabilities, temperature and discounts.
        atoms: the support, at least two atoms.
        reduction: "min" takes the critic with the least mean, "mean" the average distribution.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, no such reduction, or an empty
            support.
    """
    _check(logits, next_logits, transitions, atoms, reduction)
    return run(logits, fused, reference, logits, next_logits, transitions, atoms, reduction)


@torch.no_grad()
def categorical_td_gradient(
    loss_grad: torch.Tensor,
    logits: torch.Tensor,
    next_logits: torch.Tensor,
    transitions: Transitions,
    atoms: Atoms,
    reduction: Reduction = "min",
) -> _Pair:
    """Returns ``categorical_td_loss`` (E, B) and the gradient of its logits, without autograd.

    Args:
        loss_grad: (E, B), the gradient of the loss.
        logits: (E, B, N), as there, and so are the others.
        next_logits: (E, B, N).
        transitions: (B,) each.
        atoms: the support.
        reduction: over the critics.

    Raises:
        ValueError: as there, or loss_grad does not fit.
    """
    _check(logits, next_logits, transitions, atoms, reduction)
    require("loss_grad", loss_grad, logits.shape[:2], logits)
    arguments = (loss_grad, logits, next_logits, transitions, atoms, reduction)
    return run(logits, fused_gradient, reference_gradient, *arguments)


def _check(
    logits: torch.Tensor,
    next_logits: torch.Tensor,
    transitions: Transitions,
    atoms: Atoms,
    reduction: Reduction,
) -> None:
    if reduction not in ("min", "mean"):
        raise ValueError(f"reduction must be 'min' or 'mean', got {reduction!r}")
    if atoms.num < 2 or not atoms.v_min < atoms.v_max:
        raise ValueError(f"atoms must be at least two, v_min below v_max, got {tuple(atoms)}")
    if logits.dim() != 3 or logits.shape[2] != atoms.num:
        raise ValueError(f"logits must be (E, B, {atoms.num}), got {tuple(logits.shape)}")
    require("next_logits", next_logits, logits.shape, logits)
    for name, tensor in transitions._asdict().items():
        scalar = name == "alpha" or (name == "discount" and tensor.dim() == 0)
        require(name, tensor, () if scalar else logits.shape[1:2], logits)
