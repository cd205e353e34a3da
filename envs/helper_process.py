"""A process that draws initial states or pictures, so that its Python keeps nobody waiting.

Threads share Python's lock with the loop, which lets go of it at every call of torch and then may
wait 5 ms for it. On a GPU with 4,096 worlds of humanoid, four rows of 1.2 ms a control step, they
made 11 ms of 8.
"""

import contextlib
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

_CODE = "import sys; sys.path[:] = {path!r}; from {module} import serve; serve()"
# Nothing of it is for jax's or torch's GPU, and one core is all that it needs.
_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


class HelperProcess:
    """A process that answers requests, for one thread to ask at a time.

    It ends with its standard input, so with this process whatever may end that. Not one of
    multiprocessing's: those run a user's main module anew.

    Args:
        module: has serve(), which calls ``answer``.
    """

    def __init__(self, module: str):
        path = [*map(str, sys.path)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE.format(path=path, module=module)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | _ENVIRONMENT,
            start_new_session=True,  # a terminal's Ctrl-C is this process's to answer
        )
        self._end = weakref.finalize(self, _ended, self._process)

    def send(self, *request: Any) -> None:
        """Sends a request, which ``receive`` gets the answer to; the first one's is None.

        Raises:
            OSError: the process has ended.
        """
        assert self._process.stdin
        pickle.dump(request, self._process.stdin, pickle.HIGHEST_PROTOCOL)
        self._process.stdin.flush()

    def receive(self) -> Any:
        """Returns the answer to the last request.

        Raises:
            Exception: whatever was raised there.
            EOFError, OSError: the process has ended.
        """
        assert self._process.stdout
        try:
            result: Any = pickle.load(self._process.stdout)
        except pickle.UnpicklingError as error:
            raise EOFError("it ended in the middle of an answer") from error
        if isinstance(result, Exception):
            raise result
        return result

    def close(self) -> None:
        """Ends the process, as it ends where nobody holds this any more."""
        self._end()


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            assert pipe
            pipe.close()
    process.wait()


def answer(begin: Callable[..., Callable[..., Any]]) -> None:
    """Answers a HelperProcess on standard input and output; what is printed goes to stderr.

    Args:
        begin: takes the first request and returns what answers all others, or raises, which is
            the last answer.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    respond = None
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            if respond is None:
                respond, result = begin(*request), None
            else:
                result = respond(*request)
        except Exception as error:
            result = _sendable(error)
        with contextlib.suppress(BrokenPipeError):  # nobody asks any more, as stdin says next
            pickle.dump(result, answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()
        if respond is None:
            return


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
