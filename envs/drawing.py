"""A process that draws initial states, so that its Python does not keep the loop's waiting.

Threads share Python's lock with the loop, which lets go of it at every call of torch and then may
wait 5 ms for it. On a GPU with 4,096 worlds of humanoid, four rows of 1.2 ms a control step, they
made 11 ms of 8.
"""

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

_CODE = "import sys; sys.path[:] = {path!r}; from {module} import serve; serve({task!r})"
# Nothing of it is for a GPU, and one core is all that a row needs.
_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


class Drawer:
    """A process with dm_control's environment of a task, for one thread to ask at a time.

    It ends with its standard input, so with this process whatever may end that. Not one of
    multiprocessing's: those run a user's main module anew.

    Args:
        module: has serve(task), which calls ``answer``.
        task: the name of one of the suite's own tasks.
    """

    def __init__(self, module: str, task: str):
        path = [*map(str, sys.path)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE.format(path=path, module=module, task=task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | _ENVIRONMENT,
            start_new_session=True,  # a terminal's Ctrl-C is this process's to answer
        )

    def rows(self, seed: int, job: range) -> Any:
        """Returns what it draws of a seed's sequence.

        Raises:
            Exception: whatever dm_control raised there.
            EOFError, OSError: the process has ended.
        """
        assert self._process.stdin and self._process.stdout
        pickle.dump((seed, job), self._process.stdin)
        self._process.stdin.flush()
        try:
            result: Any = pickle.load(self._process.stdout)
        except pickle.UnpicklingError as error:
            raise EOFError("it ended in the middle of an answer") from error
        if isinstance(result, Exception):
            raise result
        return result

    def close(self) -> None:
        """Ends the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert pipe
                pipe.close()
        self._process.kill()
        self._process.wait()


def answer(rows: Callable[[int, range], Any]) -> None:
    """Answers a Drawer on standard input and output until it goes; what is printed goes to stderr.

    Args:
        rows: (seed, job) -> what Drawer.rows returns, or raises.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            result = rows(*request)
        except Exception as error:
            result = _sendable(error)
        with contextlib.suppress(BrokenPipeError):  # nobody asks any more, as stdin says next
            pickle.dump(result, answers)
            answers.flush()


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
