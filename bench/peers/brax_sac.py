"""Brax's SAC on MuJoCo Playground's environments, with the settings that Playground recommends.

`sac.train` is one closed loop: epochs of acting and updates, compiled whole, each with an
evaluation after it. Here it runs in a thread that stands still between the calls of work, and
evaluates on worlds that do nothing. Its replay does not get full, and so is not yet rolled.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import jax
from brax.envs.base import State
from brax.training.agents.sac import networks, train
from mujoco_playground.config.dm_control_suite_params import brax_sac_config

from fastsac.bench.peers.playground import env_name, training_env

_EPOCHS = 1 << 30  # as good as endless, and their steps within int64
_SECONDS_PER_REPETITION = 0.5
# Of Playground's settings, what the loop here decides, and what brax does not take.
_LOOP = ("num_timesteps", "num_evals", "episode_length", "action_repeat", "num_resets_per_eval")


@contextmanager
def open_training(
    task: str,
    num_envs: int | None = None,
    impl: str = "jax",
    hidden_sizes: Sequence[int] = (256, 256),
    epoch_steps: int = 50,
    **settings: Any,
) -> Iterator[Callable[[], int]]:
    """Opens it after its first epoch, so without compiling; work returns environment steps.

    Args:
        task: our name of a dm_control task.
        num_envs: worlds; None takes Playground's number.
        impl: the physics, "jax" or "warp".
        hidden_sizes: of actor and critics.
        epoch_steps: vector steps of an epoch; between epochs it waits for the device.
        **settings: of `sac.train`, instead of Playground's.
    """
    env = training_env(task, impl)
    settings = _recommended(task, hidden_sizes) | settings
    settings |= {"num_envs": num_envs} if num_envs else {}
    worlds = settings["num_envs"]
    prefill = -(-settings["min_replay_size"] // worlds)
    loop = partial(
        train.train,
        env,
        eval_env=_Still(env.observation_size),
        wrap_env_fn=lambda env, **_: env,  # both are as they should be
        num_timesteps=(prefill + _EPOCHS * epoch_steps) * worlds,
        num_evals=_EPOCHS + 1,
        num_eval_envs=1,
        episode_length=1,  # of an evaluation
        max_devices_per_host=1,
        **settings,
    )
    epochs = _Epochs(loop)
    try:
        with patch.object(jax, "device_put_replicated", _replicated, create=True):
            epochs.advance(2)  # an evaluation comes before the first
        start = time.perf_counter()
        epochs.advance(1)
        per_epoch = time.perf_counter() - start
        yield partial(epochs.advance, max(1, round(_SECONDS_PER_REPETITION / per_epoch)))
    finally:
        epochs.close()


def _recommended(task: str, hidden_sizes: Sequence[int]) -> dict[str, Any]:
    config = brax_sac_config(env_name(task)).to_dict()
    layers = config.pop("network_factory") | {"hidden_layer_sizes": tuple(hidden_sizes)}
    kept = {name: value for name, value in config.items() if name not in _LOOP}
    return kept | {"network_factory": partial(networks.make_sac_networks, **layers)}


def _replicated(tree: Any, devices: list[Any]) -> Any:
    """Does for one device what brax 0.14 begins with and jax 0.10 no longer has."""
    assert len(devices) == 1
    return jax.tree.map(lambda x: jax.device_put(jax.numpy.asarray(x)[None], devices[0]), tree)


class _Still:
    """Worlds to evaluate on, which brax cannot leave out; a step of them does nothing."""

    def __init__(self, obs_dim: int):
        self._obs_dim = obs_dim

    def reset(self, keys: jax.Array) -> State:
        """Returns zeros for each of the keys (B, 2)."""
        zeros = lambda *shape: jax.numpy.zeros((len(keys), *shape))  # noqa: E731
        return State(None, zeros(self._obs_dim), zeros(), zeros(), info={"steps": zeros()})

    def step(self, state: State, _: jax.Array) -> State:
        """Returns the state as it is."""
        return state


class _Closed(Exception):
    """Ends the loop."""


class _Epochs:
    """A training loop in a thread, which goes on for so many epochs as it is told to.

    Args:
        loop: takes ``progress_fn``, and calls it with the environment steps so far once before the
            first epoch and once after each.
    """

    def __init__(self, loop: Callable[..., Any]):
        self._steps, self._closing = 0, False
        self._error: BaseException | None = None
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(loop,), daemon=True)
        self._thread.start()

    def advance(self, epochs: int) -> int:
        """Goes on and returns how many environment steps that were.

        Raises:
            Exception: what the loop raised.
        """
        before = self._steps
        for _ in range(epochs):
            if not self._error:
                self._go.release()
                self._paused.acquire()
            if self._error:
                raise self._error
        return self._steps - before

    def close(self) -> None:
        """Ends the thread."""
        self._closing = True
        self._go.release()
        self._thread.join()

    def _run(self, loop: Callable[..., Any]) -> None:
        try:
            self._wait()
            loop(progress_fn=self._pause)
        except _Closed:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._paused.release()

    def _pause(self, steps: int, _: Any) -> None:
        self._steps = steps
        self._paused.release()
        self._wait()

    def _wait(self) -> None:
        self._go.acquire()
        if self._closing:
            raise _Closed
