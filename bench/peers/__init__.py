"""Other people's environments and learners, in adapters of a few lines, to time ours beside.

An adapter is a module with some of these functions. Each returns a context that yields ``work`` as
`Case.open` wants it:

    open_env(task, num_envs)            control steps of so many worlds of a dm_control task
    open_learner(batch, width, updates) SAC's updates, so many a call, of the sizes in bench.learner
    open_training(task)                 SAC on a world of a task, an update a step

Where it cannot be set up here, the row says why: a peer is never a reason to stop.
"""

import importlib
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastsac.bench.harness import Unavailable
from fastsac.errors import UserError

# What a variant of the rows is.
NOTES = {
    "envpool": "EnvPool's C++ environments on as many threads, float64 in and out",
    "gymnasium": "Gymnasium's AsyncVectorEnv over dm_control through Shimmy, a process a world",
    "playground": "MuJoCo Playground's ports, compiled with their own auto-reset, on MJX; they are "
    "other work than dm_control's: Euler for RK4 in cartpole, 1 to 4 solver iterations, an "
    "ended world goes back to its first state",
    "playground-warp": "the same on MuJoCo Warp",
    "eager": "SAC as a single file of plain torch (plain_sac.py), as CleanRL writes it",
    "compile": "the same with torch.compile",
    "compile+graph": "the same in a CUDA graph, as LeanRL has it",
    "sb3": "Stable-Baselines3's SAC, its replay in numpy",
    "sbx": "SBX, the same in JAX; many updates a call are one compiled loop",
    "torchrl": "TorchRL's SACLoss and replay buffer, as in its SAC example; on a CPU it samples no "
    "batches ahead, which is faster",
    "brax": "brax's SAC on Playground's port, its worlds, batch and updates a vector step ours",
    "brax-warp": "the same on MuJoCo Warp",
}
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
        try:
            context.__exit__(None, None, None)
        except Exception as error:
            print(f"fastsac bench: closing {module}: {error}", file=sys.stderr)


def _unavailable(error: Exception, module: str) -> Unavailable:
    if isinstance(error, Unavailable):
        return error
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("fastsac"):
        return Unavailable(f"not installed: pip install 'fastsac[{_EXTRAS[module]}]' ({error})")
    if isinstance(error, UserError):
        return Unavailable(str(error))
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}:{where.lineno}"
    return Unavailable(f"{type(error).__name__} in {place}: {' '.join(str(error).split())[:200]}")
