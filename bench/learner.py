"""Level 2: gradient updates per second of SAC, replay sampling included, beside peers'.

"eager", "compile" and "compile+graph" are the same algorithm as a single file of plain torch; the
other peers are packages. A case that takes many updates a call may be one program of them.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, get_args

import torch

from fastsac import SAC, ReplayBuffer, SACConfig
from fastsac.bench import device, peers
from fastsac.bench.harness import Case
from fastsac.learner.config import Precision
from fastsac.learner.flat_weights import cpu_multiplies_bf16

# The paper's setting, with cheetah's sizes.
OBS_DIM, ACTION_DIM = 17, 6
_CRITICS = 2
SIZES = ((256, 256), (1024, 256))  # batch, width
GPU_SIZES = (SIZES[0], (8192, 512), SIZES[1])
TRANSITIONS = 100_000


# The paper's setting, and a call for the updates that 64 worlds ask for, on a GPU one graph.
UPDATES_PER_CALL = (1, 64)
_PACKAGES = {"sb3": (1,), "sbx": (1, 64), "torchrl": (1,)}  # the updates a call of each


def cases(quick: bool) -> list[Case]:
    """Batch size by width, on the GPU where there is one; the packages beside the paper's."""
    sizes = list(GPU_SIZES if torch.cuda.is_available() else SIZES)
    del sizes[1 if quick else len(sizes) :]
    return [case for batch, width in sizes for case in _cases(batch, width, quick)]


def _cases(batch: int, width: int, quick: bool) -> list[Case]:
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
            labels={
                **labels,
                "variant": variant,
                "precision": precision,
                "updates_per_call": updates,
            },
            unit="updates",
            open=open_case,
            group=group,
            baseline=(variant, precision, updates) == ("ours", "float32", UPDATES_PER_CALL[0]),
            flops=update_flops(batch, width),
        )
        for variant, precision, updates, open_case in _variants(batch, width, quick)
    ]


def _variants(batch: int, width: int, quick: bool) -> Iterator[tuple[str, Precision, int, Any]]:
    for updates in UPDATES_PER_CALL:
        for precision in _precisions():
            yield "ours", precision, updates, partial(open_ours, batch, width, updates, precision)
            if not (quick or torch.cuda.is_available()):  # 20 s to compile
                opened = partial(open_ours, batch, width, updates, precision, compiled=True)
                yield "ours-compiled", precision, updates, opened
    plain = partial(peers.opened, "plain_sac", "open_learner", batch, width, 1)
    yield "eager", "float32", 1, partial(plain, "eager")
    if not quick:  # 20 s to compile
        yield "compile", "float32", 1, partial(plain, "compile")
    for precision in _precisions():
        if torch.cuda.is_available():
            yield "compile+graph", precision, 1, partial(plain, "compile+graph", precision)
        elif precision != "float32":
            yield "compile", precision, 1, partial(plain, "compile", precision)
    if (batch, width) == SIZES[0]:
        for package, calls in _PACKAGES.items():
            for updates in calls:
                opened = partial(peers.opened, package, "open_learner")
                yield package, "float32", updates, partial(opened, batch, width, updates)


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
    batch: int,
    width: int,
    updates: int,
    precision: Precision = "float32",
    compiled: bool = False,
) -> Any:
    """Opens fastsac's learner, so many updates a call."""
    where = device.device_type()
    config = SACConfig(hidden_sizes=(width, width), precision=precision, compile_updates=compiled)
    agent = SAC(OBS_DIM, ACTION_DIM, config, where, strict=True)
    replay = ReplayBuffer(TRANSITIONS, OBS_DIM, ACTION_DIM, where)
    replay.add(*transitions())
    return device.repeated(partial(agent.learn, replay, batch, updates), updates)
