"""Gradient updates per second of SAC, replay sampling included, beside plain torch's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, get_args

import torch

from fastsac import SAC, ReplayBuffer, SACConfig
from fastsac.bench import device
from fastsac.bench.harness import Case
from fastsac.bench.plain_sac import PlainSAC, Sampled
from fastsac.config import Precision
from fastsac.flat import cpu_multiplies_bf16

# The paper's setting, with cheetah's sizes.
OBS_DIM, ACTION_DIM = 17, 6
_CRITICS = 2
SIZES = ((256, 256), (1024, 256))  # batch, width
GPU_SIZES = (*SIZES, (8192, 512))
TRANSITIONS = 100_000


def updates_per_call() -> int:
    """What a call of ``learn`` does: on a GPU a graph of the updates that 64 worlds ask for."""
    return 64 if torch.cuda.is_available() else 8


def cases() -> list[Case]:
    """Batch size by width, on the GPU where there is one."""
    sizes = GPU_SIZES if torch.cuda.is_available() else SIZES
    return [case for batch, width in sizes for case in _cases(batch, width)]


def _cases(batch: int, width: int) -> list[Case]:
    group = f"{batch} {width}"
    labels = {
        "device": device.device_type(),
        "batch_size": batch,
        "hidden_sizes": f"{width}-{width}",
    }
    limits = [
        device.matmul_limit(
            {**labels, "variant": "matmul", "precision": precision}, group, batch, width, precision
        )
        for precision in _precisions()
    ]
    return limits + [
        Case(
            labels={**labels, "variant": variant, "precision": precision},
            unit="updates",
            open=open_case,
            group=group,
            baseline=variant == "eager",
            flops=update_flops(batch, width),
        )
        for variant, precision, open_case in _variants(batch, width)
    ]


def _variants(batch: int, width: int) -> list[tuple[str, Precision, Any]]:
    plain = partial(_open_plain, batch, width)
    variants: list[tuple[str, Precision, Any]] = [
        ("eager", "float32", partial(plain, "float32", compiled=False)),
        ("compile", "float32", partial(plain, "float32", compiled=True)),
    ]
    for precision in _precisions():
        if torch.cuda.is_available():
            opened = partial(plain, precision, compiled=True, graph=True)
            variants.append(("compile+graph", precision, opened))
        elif precision != "float32":
            variants.append(("compile", precision, partial(plain, precision, compiled=True)))
        variants.append(("ours", precision, partial(open_ours, batch, width, precision)))
    return variants


def _precisions() -> list[Precision]:
    if torch.cuda.is_available():
        return list(get_args(Precision))
    return ["float32", "bf16"] if cpu_multiplies_bf16() else ["float32"]


def update_flops(batch: int, width: int) -> int:
    """Returns the flops of one update's matmuls.

    A pass backward costs two forward ones: the gradients of weights and inputs. The first layer's
    input needs none, except of the critics in the policy loss, whose weights need none.
    """
    first_actor, first_critic = (2 * batch * i * width for i in (OBS_DIM, OBS_DIM + ACTION_DIM))
    actor = first_actor + 2 * batch * width * (width + 2 * ACTION_DIM)
    critic = first_critic + 2 * batch * width * (width + 1)
    target = actor + _CRITICS * critic
    critic_loss = _CRITICS * (3 * critic - first_critic)
    policy_loss = 3 * actor - first_actor + _CRITICS * 2 * critic
    return target + critic_loss + policy_loss


def transitions() -> list[torch.Tensor]:
    """Returns random obs, action, reward, terminated and next_obs on the device."""
    where = device.device_type()
    generator = torch.Generator(where).manual_seed(0)
    normal = partial(torch.randn, device=where, generator=generator)
    return [
        normal(TRANSITIONS, OBS_DIM),
        normal(TRANSITIONS, ACTION_DIM).tanh(),
        normal(TRANSITIONS).sigmoid(),
        torch.zeros(TRANSITIONS, device=where),
        normal(TRANSITIONS, OBS_DIM),
    ]


def open_ours(
    batch: int, width: int, precision: Precision = "float32", updates: int | None = None
) -> Any:
    """Opens fastsac's learner, so many updates a call."""
    where, updates = device.device_type(), updates or updates_per_call()
    config = SACConfig(hidden_sizes=(width, width), precision=precision)
    agent = SAC(OBS_DIM, ACTION_DIM, config, where)
    replay = ReplayBuffer(TRANSITIONS, OBS_DIM, ACTION_DIM, where)
    replay.add(*transitions())
    return device.repeated(partial(agent.learn, replay, batch, updates), updates)


@contextmanager
def _open_plain(
    batch: int, width: int, precision: Precision, compiled: bool, graph: bool = False
) -> Iterator[Callable[[], int]]:
    with device.compiling() if compiled else nullcontext():
        agent = PlainSAC(OBS_DIM, ACTION_DIM, width, device.device_type(), compiled, precision)
        with device.repeated(Sampled(agent, transitions(), batch, graph)) as work:
            yield work
