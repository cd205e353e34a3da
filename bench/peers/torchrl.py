"""TorchRL's SAC, eager, built as its own SAC example builds it; on a CPU no batches ahead."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from torchrl.data import Bounded, LazyTensorStorage, TensorDictReplayBuffer
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss, SoftUpdate, group_optimizers

from fastsac.bench import device, learner
from fastsac.bench.harness import Unavailable

_GAMMA, _TAU, _LEARNING_RATE = 0.99, 0.005, 3e-4


@contextmanager
def open_learner(batch: int, width: int, updates: int) -> Iterator[Callable[[], int]]:
    """Opens a sample with an update on it; only one a call."""
    if updates != 1:
        raise Unavailable("TorchRL's example makes one update after another")
    logging.getLogger("torchrl").setLevel(logging.WARNING)  # its storage has news on stdout
    replay = _filled_replay(batch)
    try:
        with device.repeated(Update(replay, _loss(width))) as work:
            yield work
    finally:
        replay.shutdown()  # of the threads that sample ahead


class Update:
    """One gradient step on critics, actor and temperature, then the Polyak update.

    Args:
        replay: to draw from.
        loss: of all three.
    """

    def __init__(self, replay: TensorDictReplayBuffer, loss: SACLoss):
        self.loss = loss
        self._replay = replay
        self._targets = SoftUpdate(loss, tau=_TAU)
        parts = (
            list(loss.actor_network_params.flatten_keys().values()),
            list(loss.qvalue_network_params.flatten_keys().values()),
            [loss.log_alpha],
        )
        adams = (torch.optim.Adam(parameters, lr=_LEARNING_RATE) for parameters in parts)
        self._optimizer = group_optimizers(*adams)

    def __call__(self) -> None:
        """Draws a batch and updates."""
        losses = self.loss(self._replay.sample())
        (losses["loss_actor"] + losses["loss_qvalue"] + losses["loss_alpha"]).sum().backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._targets.step()


def _filled_replay(batch: int) -> TensorDictReplayBuffer:
    storage = LazyTensorStorage(learner.TRANSITIONS, device=device.device_type())
    # The example samples three batches ahead, in three threads. On a CPU each has OpenMP threads of
    # its own, more than two cores have, and all yield at each barrier: without them TorchRL does 83
    # to 90 updates a second instead of 49, and the cases beside it twice as many.
    ahead = None if device.device_type() == "cpu" else 3
    replay = TensorDictReplayBuffer(storage=storage, batch_size=batch, prefetch=ahead)
    obs, action, reward, terminated, next_obs = learner.transitions()
    ended = terminated[:, None].bool()
    after = {"observation": next_obs, "reward": reward[:, None]}
    after |= {"terminated": ended, "done": ended.clone()}
    rows = {"observation": obs, "action": action, "next": after}
    replay.extend(TensorDict(rows, batch_size=[len(obs)]))
    return replay


def _loss(width: int) -> SACLoss:
    critic = _mlp(learner.ACTION_DIM + learner.OBS_DIM, width, 1)
    loss = SACLoss(
        _actor(width),
        ValueOperator(critic, ["action", "observation"]),
        loss_function="l2",
        target_entropy=-float(learner.ACTION_DIM),
    )
    loss.make_value_estimator(gamma=_GAMMA)
    return loss


def _actor(width: int) -> ProbabilisticActor:
    spec = Bounded(-1.0, 1.0, (learner.ACTION_DIM,), device.device_type())
    limits = {"low": spec.space.low, "high": spec.space.high}
    scale = NormalParamExtractor(scale_mapping="biased_softplus_1.0", scale_lb=0.1)
    network = nn.Sequential(_mlp(learner.OBS_DIM, width, 2 * learner.ACTION_DIM), scale)
    return ProbabilisticActor(
        TensorDictModule(network, ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=spec,
        distribution_class=TanhNormal,
        distribution_kwargs={**limits, "tanh_loc": False},
    )


def _mlp(inputs: int, width: int, outputs: int) -> Any:
    layers = {"num_cells": [width, width], "activation_class": nn.ReLU}
    return MLP(inputs, outputs, device=device.device_type(), **layers)
