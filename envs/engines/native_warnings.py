"""MuJoCo's warnings of the native engine's worlds, which are counted instead of logged each."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import mujoco

WARNINGS = [n.removeprefix("mjWARN_").lower() for n in list(mujoco.mjtWarning.__members__)[:-1]]
# Kinds after which MuJoCo has reset a world.
DIVERGING = [WARNINGS.index(kind) for kind in ("badctrl", "badqpos", "badqvel", "badqacc")]

_this_thread = threading.local()


@contextmanager
def warnings_are_counted() -> Iterator[None]:
    """Within it this thread's warnings are the engine's."""
    _this_thread.counts = True
    try:
        yield
    finally:
        _this_thread.counts = False


def is_not_counted(record: logging.LogRecord) -> bool:
    """Whether a warning comes from elsewhere: Batch's own threads are no threads of Python's."""
    counts = getattr(_this_thread, "counts", False)
    return not counts and not (record.threadName or "").startswith("Dummy-")
