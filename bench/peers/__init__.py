"""Other people's environments and learners, in adapters of a few lines, to time ours beside.

An adapter is a module with some of these functions. Each returns a context that yields ``work`` as
`Case.open` wants it:

    open_env(task, num_envs)            control steps of so many worlds of a dm_control task
    open_learner(batch, width, updates) SAC's updates, so many a call, of the sizes in bench.learner
    open_training(task)                 SAC on a world of a task, an update a step

Where it cannot be set up here, the row says why: a peer is never a reason to stop.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastsac.bench.harness import Unavailable
from fastsac.errors import UserError

# What of pyproject.toml installs an adapter's packages.
_EXTRAS = {
    "envpool": "bench-envpool",
    "gymnasium_async": "bench-gymnasium",
    "plain_sac": "bench-gymnasium",
    "sb3": "bench-sb3",
    "sbx": "bench-sbx",
    "torchrl": "bench-torchrl",
    "playground": "bench-brax",
    "brax_sac": "bench-brax",
}


@contextmanager
def opened(module: str, function: str, *args: Any, **named: Any) -> Iterator[Callable[[], int]]:
    """Sets a peer up.

    Args:
        module: of this package.
        function: of the module.
        *args: of the function.
        **named: of the function.

    Raises:
        Unavailable: it is not installed, or it raised an error, then or at work.
    """
    try:
        adapter = importlib.import_module(f"fastsac.bench.peers.{module}")
        context = getattr(adapter, function)(*args, **named)
        work = context.__enter__()
    except Exception as error:
        raise _unavailable(error, module) from error

    def guarded() -> int:
        try:
            return work()
        except Exception as error:
            raise _unavailable(error, module) from error

    try:
        yield guarded
    finally:
        context.__exit__(None, None, None)


def _unavailable(error: Exception, module: str) -> Unavailable:
    if isinstance(error, Unavailable):
        return error
    if isinstance(error, ModuleNotFoundError):
        return Unavailable(f"not installed: pip install 'fastsac[{_EXTRAS[module]}]' ({error})")
    if isinstance(error, UserError):
        return Unavailable(str(error))
    return Unavailable(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
