"""Python files that register tasks: run with their folder's modules, and what they read."""

import ast
import dataclasses
import hashlib
import importlib.util
import os
import runpy
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import mujoco

# Of packages, which a machine has or installs; nothing that they read is a task's.
_INSTALLED = {Path(sysconfig.get_path(p)) for p in ("stdlib", "platstdlib", "purelib", "platlib")}
_parsed = mujoco.MjSpec.from_file
# What hands MuJoCo a file to read.
_READERS = (
    (mujoco.MjSpec, "from_file"),
    (mujoco.MjModel, "from_xml_path"),
    (mujoco.MjModel, "from_binary_path"),
)


@dataclasses.dataclass
class Running:
    """A task file that is being run.

    Attributes:
        path: the file's real one.
        keeps: takes a task's name and what it gives as its model, and returns the model that a run
            keeps, or None for a task that it does not keep; None where the file is no run's.
        thread: that runs it.
        read: the files that it read so far: in its own folder, and of models anywhere.
    """

    path: Path
    keeps: Callable[[str, Any], mujoco.MjModel | None] | None
    thread: int
    read: set[Path]


# Bytes; what people edit is smaller, while a run that they have just started still compiles.
_SMALL = 1_000_000

_running: Running | None = None
_contents: dict[str, bytes] = {}  # of small files, by digest
_lock = threading.RLock()
_brought: set[str] = set()  # names of the modules that the last file brought
_watches: list[None] = []  # one, once this process watches what is opened


def running() -> Running | None:
    """Returns the task file that this thread is running now."""
    return _running if _running and _running.thread == threading.get_ident() else None


def run(
    path: Path, keeps: Callable[[str, Any], mujoco.MjModel | None] | None = None
) -> dict[Path, str]:
    """Runs a task file and returns what it read, itself included: path -> digest.

    Modules beside it can be imported, and are read anew.

    Args:
        path: the file's real path.
        keeps: see Running.

    Raises:
        BaseException: whatever the file raises.
    """
    global _running
    with _lock, ExitStack() as undo:
        undo.callback(_runs_again, _running)
        _running = Running(path, keeps, threading.get_ident(), {path})
        undo.enter_context(_folder_on_path(path.parent))
        undo.enter_context(_models_are_seen())
        if not _watches:
            sys.addaudithook(_watch)
            _watches.append(None)
        before = {*sys.modules}
        try:
            runpy.run_path(str(path), run_name="fastsac_task")
        finally:
            own = {name: file for name in {*sys.modules} - before if (file := _module_file(name))}
            _brought.update(own)
        read = _with_imported({*own.values()} | _running.read) - _our_files()
        return {file: _remembered(file) for file in sorted(read) if file.is_file()}


def content_of(was: str) -> bytes | None:
    """Returns what a file of that digest held when a task file read it, unless it is large."""
    return _contents.get(was)


def _remembered(file: Path) -> str:
    was = digest(file)
    if file.stat().st_size <= _SMALL:
        _contents[was] = file.read_bytes()
    return was


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, UnicodeError):  # a name that the locale cannot write
        return ""


def unchanged(files: Mapping[Path, str]) -> bool:
    """Whether files still have their digests."""
    return bool(files) and all(digest(path) == was for path, was in files.items())


def note_model(path: Path) -> None:
    """Notes a model's file, with all that it includes, as read by the file that is running."""
    if now := running():
        now.read.update(files_of_model(path))


def files_of_model(path: Path) -> set[Path]:
    """Returns a model's files; none where it cannot be read, which whoever reads it says."""
    if path.suffix == ".mjb":
        return {path}
    try:
        files, spec = mujoco.mju_getXMLDependencies(str(path)), _parsed(str(path))
    except (mujoco.FatalError, ValueError):
        return set()
    # Of assets whose folder another file names MuJoCo's list has it wrong.
    kinds: Any = spec.meshes, spec.hfields, spec.textures, spec.skins
    assets = [asset.file for kind in kinds for asset in kind]
    assets += [file for texture in spec.textures for file in texture.cubefiles]
    folders = [os.path.join(path.parent, x) for x in ("", spec.meshdir, spec.texturedir)]
    files += [os.path.join(folder, file) for folder in folders for file in assets if file]
    return {Path(os.path.abspath(file)) for file in files if os.path.isfile(file)}


def _runs_again(before: Running | None) -> None:
    global _running
    _running = before


@contextmanager
def _folder_on_path(folder: Path) -> Iterator[None]:
    """Within it a folder's modules are imported, whatever others of their names there are."""
    for name in _brought & {*sys.modules}:
        del sys.modules[name]
    _brought.clear()
    beside = {file.stem for file in folder.glob("*.py")}
    beside |= {file.parent.name for file in folder.glob("*/__init__.py")}
    others = {
        name: sys.modules.pop(name)
        for name in [*sys.modules]
        if name.partition(".")[0] in beside and _is_of_another_folder(name)
    }
    writes_none = sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True  # a run's directory holds what its task is, no more
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(folder))
        sys.dont_write_bytecode = writes_none
        sys.modules.update(others)
        _brought.difference_update(others)


def _is_of_another_folder(name: str) -> bool:
    file = getattr(sys.modules[name], "__file__", None)
    if not file or name.partition(".")[0] in ("fastsac", "__main__"):
        return False
    path = Path(os.path.abspath(file))
    return not (_is_own(path) or _is_installed(path))


def _our_files() -> set[Path]:
    """What fastsac itself has loaded, should the file lie beside its sources."""
    ours = [module for name, module in [*sys.modules.items()] if name.startswith("fastsac")]
    return {Path(file) for module in ours if (file := getattr(module, "__file__", None))}


@contextmanager
def _models_are_seen() -> Iterator[None]:
    """Within it files that MuJoCo reads for Python code are noted."""

    def seen(read: Callable[..., Any]) -> Any:
        def from_path(filename: Any, *args: Any, **kwargs: Any) -> Any:
            note_model(Path(filename))
            return read(filename, *args, **kwargs)

        return staticmethod(from_path)

    before = [(kind, name, vars(kind)[name]) for kind, name in _READERS]
    for kind, name, _ in before:
        setattr(kind, name, seen(getattr(kind, name)))
    try:
        yield
    finally:
        for kind, name, read in before:
            setattr(kind, name, read)


def _watch(event: str, args: Any) -> None:
    """Notes what Python opens to read; called for all that Python audits, from the first run on."""
    if _running is None or event != "open" or not running():
        return
    path, mode, flags = args
    reads = mode.startswith("r") if mode else flags & os.O_ACCMODE == os.O_RDONLY
    if reads and isinstance(path, str | bytes | os.PathLike):
        file = Path(os.path.abspath(os.fsdecode(path)))
        if _is_own(file) or file.suffix == ".xml" and not _is_installed(file):
            _running.read.add(file)


def _is_own(file: Path) -> bool:
    """Whether a file is the running one's: in its folder, not hidden and no package's."""
    assert _running
    if not file.is_relative_to(_running.path.parent):
        return False
    inside = file.relative_to(_running.path.parent).parts
    hidden = any(part.startswith(".") or part == "__pycache__" for part in inside)
    return not (hidden or _is_installed(file))


def _is_installed(file: Path) -> bool:
    return any(file.is_relative_to(folder) for folder in _INSTALLED)


def _module_file(name: str) -> Path | None:
    """Returns where a module comes from, if that is the running file's folder."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if not file or name.partition(".")[0] in ("fastsac", "__main__"):
        return None
    path = Path(os.path.abspath(file))
    return path if _is_own(path) else None


def _with_imported(files: set[Path]) -> set[Path]:
    """Adds the modules that were imported before, by the program, and are the files' as well."""
    found, new = set[Path](), files
    while new:
        found |= new
        names = {name for file in new if file.suffix == ".py" for name in _imports(file)}
        new = {path for name in names if (path := _module_file(name))} - found
    return found


def _imports(file: Path) -> Iterator[str]:
    """Names all modules that a file may import, packages before their modules."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # read, but never imported
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = file.parent.parents[node.level - 2] if node.level > 1 else file.parent
            assert _running
            base = parent.relative_to(_running.path.parent).parts if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [stem, *(f"{stem}.{alias.name}".lstrip(".") for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[: i + 1]) for i in range(len(parts)))
