"""Children of fork have none of their parent's threads, and what waits for one waits for ever.

So MuJoCo's, jax's and OpenMP's calls do, without a word.
"""

import os

_used = set[str]()  # what this process has started threads for
_lost = set[str]()  # what a parent had when it forked


def use(what: str) -> None:
    """Notes that threads are used here, and refuses those that a fork has left behind.

    Args:
        what: fastsac's environments, or another noun in the plural.

    Raises:
        RuntimeError: with what to do instead.
    """
    if what in _lost:
        raise RuntimeError(
            f"{what} were used by the process that this one was forked from, and their threads are "
            'not here: use "spawn", as multiprocessing.get_context("spawn") does'
        )
    _used.add(what)


def _forked() -> None:
    _lost.update(_used)


os.register_at_fork(after_in_child=_forked)
