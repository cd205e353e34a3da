"""A run's directory: configuration, machine, result, and the lock that guards it."""

import contextlib
import datetime
import fcntl
import itertools
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fastsac.errors import ConfigError, RunError
from fastsac.machine import machine
from fastsac.runs.atomic_write import write_atomically

CONFIG = "config.json"
MACHINE = "machine.json"
RESULT = "result.json"
LOCK = "lock"
TASK = "task"  # one's own, with its model and all else that it takes
_LOCK_TRIES = 5
_SET_UP = {CONFIG, MACHINE, LOCK, TASK, TASK + ".partial"}
# What reading JSON that nobody checked can raise.
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, RecursionError)

ParsedT = TypeVar("ParsedT")


class RunDirectory:
    """A run's directory, held by this process until ``close``.

    The lock is the kernel's, so that a process that dies leaves none behind.

    Args:
        path: an existing directory.

    Raises:
        RunError: another process trains there, or the directory cannot be written.

    Attributes:
        path: absolute, since the program may go to another directory meanwhile.
    """

    def __init__(self, path: Path):
        self.path = path.absolute()
        try:
            self._lock = (path / LOCK).open("a")
        except OSError as error:
            raise RunError(f"cannot write to the run {path}: {error.strerror}") from error
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.01)  # is_running holds it for microseconds
            except OSError as error:
                self._lock.close()
                raise RunError(f"cannot lock the run {path}: {error.strerror}") from error
        self._lock.close()
        raise RunError(f"another process is training in {path}")

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a JSON file of the run.

        Raises:
            OSError: the old file is intact.
        """
        write_atomically(self.path / name, (json.dumps(content, indent=2) + "\n").encode())

    def close(self) -> None:
        """Lets other processes have it."""
        self._lock.close()


def create(config: Mapping[str, Any], needed_bytes: int) -> RunDirectory:
    """Makes the run's directory and writes the resolved configuration into it.

    Args:
        config: the run's, with its "task" and its "run_dir", which is None for one of our naming.
        needed_bytes: of disk that the run's files will take.

    Raises:
        RunError: the directory holds another run or other files, cannot be made, or the disk has
            no room; nothing was written.
    """
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    named: str | None = config["run_dir"]
    path = Path(named or f"runs/{short_name(config['task'])}-{stamp}")
    try:
        found = {*os.listdir(path)} if named and os.path.isdir(path) else set()
        # A set-up that was killed leaves these, the lock first: nothing is lost with them.
        if found and (LOCK not in found or found - _SET_UP):
            what = "another run" if os.path.exists(path / CONFIG) else "other files"
            raise RunError(f"{path} holds {what}; choose another --run-dir, or --resume {path}")
        existing = next(p for p in (path, *path.absolute().parents) if os.path.exists(p))
        free = shutil.disk_usage(existing).free
        if needed_bytes > free:
            raise RunError(
                f"the run's files need about {needed_bytes / 1e6:.1f} MB and {free / 1e6:.1f} MB "
                f"of disk are free at {existing}"
            )
        path = _make(path, numbered=named is None)
    except OSError as error:
        raise RunError(f"cannot write to --run-dir {path}: {error.strerror}") from error
    directory = RunDirectory(path)
    try:
        if os.path.isdir(path / TASK):
            shutil.rmtree(path / TASK)
        directory.write(CONFIG, config)
        program = Path(sys.argv[0]).name.replace("__main__.py", "fastsac")
        command = shlex.join([program, *sys.argv[1:]])
        directory.write(MACHINE, machine() | {"command": command})
    except OSError as error:
        shutil.rmtree(path)
        raise RunError(f"cannot write to --run-dir {path}: {error.strerror or error}") from error
    return directory


def shown(path: Path) -> Path:
    """Returns a path as the user is told it: from where the program is, if it lies below."""
    with contextlib.suppress(ValueError, OSError):
        return path.relative_to(Path.cwd())
    return path


def short_name(task: str) -> str:
    """Returns a task's name; of one in a file, without the file's folder."""
    return Path(task.rpartition(":")[2]).stem


def _make(path: Path, numbered: bool) -> Path:
    """Makes the directory; where its name is ours and taken, PATH-2, PATH-3 and so on."""
    if not numbered:
        path.mkdir(parents=True, exist_ok=True)
        return path
    for count in itertools.count(1):
        candidate = path if count == 1 else path.with_name(f"{path.name}-{count}")
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            continue
    raise AssertionError("unreachable")


def recorded(path: Path, parse: Callable[[str], ParsedT]) -> ParsedT | None:
    """Returns what ``parse`` makes of a run's configuration, or None where there is no run.

    Args:
        path: the run's directory.
        parse: takes the text of config.json; what it raises of wrong content is damage.

    Raises:
        RunError: config.json is damaged or of another version.
    """
    file = path / CONFIG
    if not os.path.isfile(file):
        return None
    try:
        return parse(file.read_text())
    except (OSError, *_DAMAGE, ConfigError) as error:
        raise RunError(f"{file} is damaged or of another version: {error}") from error


def recorded_task(path: Path) -> str | None:
    """Returns the task that a run directory says it is of, or None where there is no run.

    Raises:
        RunError: config.json is damaged.
    """
    return recorded(path, lambda text: str(json.loads(text)["task"]))


def is_running(path: Path) -> bool:
    """Whether a process trains in a run directory; nothing is written or waited for.

    Raises:
        OSError: the lock is there but cannot be tried.
    """
    try:
        # Not blocking, should it be a pipe.
        descriptor = os.open(path / LOCK, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
