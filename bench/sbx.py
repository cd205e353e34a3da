"""Our learner beside SBX's SAC in JAX: same batch, networks, replay and updates a call."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch

from fastsac.bench import device, learner
from fastsac.bench.harness import Case
from fastsac.errors import ConfigError

BATCH, WIDTH = 256, 256
UPDATES_PER_CALL = (1, 100)


def cases() -> list[Case]:
    """A pair for each number of updates a call; the SBX case is its baseline.

    Both draw from a replay of random transitions, SBX on the host with numpy, ours on the device,
    and both may use all cores.

    Raises:
        ConfigError: SBX is not installed, or its JAX has another device than torch.
    """
    try:
        import jax
        import sbx  # noqa: F401
    except ImportError as error:
        raise ConfigError("this needs SBX: pip install sbx-rl") from error
    if (jax.default_backend() != "cpu") != torch.cuda.is_available():
        raise ConfigError(f"jax runs on {jax.default_backend()}, torch on {device.device_type()}")
    return [
        Case(
            labels={
                "variant": variant,
                "device": device.device_type(),
                "batch_size": BATCH,
                "hidden_sizes": f"{WIDTH}-{WIDTH}",
                "updates_per_call": updates,
            },
            unit="updates",
            open=open_case,
            group=str(updates),
            baseline=variant == "sbx",
        )
        for updates in UPDATES_PER_CALL
        for variant, open_case in (
            ("sbx", partial(_open_sbx, updates)),
            ("ours", partial(learner.open_ours, BATCH, WIDTH, updates=updates)),
        )
    ]


class _Sizes(gymnasium.Env):
    """Nothing but the spaces, for SBX to build its networks by."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (learner.OBS_DIM,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (learner.ACTION_DIM,), np.float32)

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns zeros."""
        return np.zeros(learner.OBS_DIM, np.float32), {}


@contextmanager
def _open_sbx(updates: int) -> Iterator[Callable[[], int]]:
    import jax
    from sbx import SAC
    from stable_baselines3.common.logger import Logger

    networks = {"net_arch": [WIDTH, WIDTH]}
    size = learner.TRANSITIONS
    model = SAC("MlpPolicy", _Sizes(), buffer_size=size, policy_kwargs=networks)
    model.set_logger(Logger(None, []))  # of which train() wants one
    buffer = model.replay_buffer
    # Each (size, 1 world, ...), written whole: add() takes one transition at a time.
    columns = ("observations", "actions", "rewards", "dones", "next_observations")
    for name, values in zip(columns, learner.transitions(), strict=True):
        column = getattr(buffer, name)
        column[:] = values.cpu().numpy().reshape(column.shape)
    buffer.full = True

    def train() -> None:
        model.train(updates, BATCH)
        jax.block_until_ready((model.policy.actor_state.params, model.policy.qf_state.params))

    with device.repeated(train, updates) as work:
        yield work
