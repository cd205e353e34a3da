"""Models of tasks of one's own: MJCF, MJB, XML and MjSpec, compiled."""

import os
import tempfile
from pathlib import Path
from typing import Any, TypeAlias

import mujoco

from fastsac.envs.task_files import files_of_model, note_model, running

# What a task's model may be: a compiled one, a spec, the path of a file, or XML.
Source: TypeAlias = "mujoco.MjModel | mujoco.MjSpec | Path | str"


def model_source(name: str, mjcf: Any) -> Source:
    """Returns what ``register`` was given: XML without a byte order mark, or an absolute path.

    Raises:
        ValueError: it can be no model.
    """
    if isinstance(mjcf, mujoco.MjSpec):
        return mjcf
    if not isinstance(mjcf, str | os.PathLike):
        got = type(mjcf).__name__
        kinds = "XML, the path of a file or an MjSpec"
        raise ValueError(f"task {name}: mjcf must be {kinds}, got {got}")
    text = str(mjcf).removeprefix("\ufeff").strip()
    if not text or "\0" in text:
        raise ValueError(f"task {name}: mjcf is {'no path' if text else 'empty'}")
    return text if text.startswith("<") else Path(os.path.abspath(_folder() / mjcf))


def compiled(source: Source) -> mujoco.MjModel:
    """Compiles a model; a task file that is running has then read its files.

    Raises:
        ValueError: it does not compile.
    """
    if isinstance(source, mujoco.MjModel):
        return source
    if isinstance(source, mujoco.MjSpec):
        return source.copy().compile()
    if isinstance(source, str):
        return _compiled_text(source)
    if not source.is_file():
        raise ValueError(f"there is no model {source}")
    note_model(source)
    if source.suffix == ".mjb":
        try:
            return mujoco.MjModel.from_binary_path(str(source))
        except ValueError as error:
            raise ValueError(f"{source} is no MJB of MuJoCo {mujoco.__version__}") from error
    return mujoco.MjModel.from_xml_path(str(source))


def _folder() -> Path:
    """What a relative path is relative to."""
    file = running()
    return file.path.parent if file else Path.cwd()


def _compiled_text(xml: str) -> mujoco.MjModel:
    """Compiles XML as if it were a file beside the task's."""
    if not (file := running()):
        return mujoco.MjModel.from_xml_string(xml)
    file.read.update(_files_below(xml, file.path.parent))
    place = str(file.path.with_name(f".{file.path.name}.xml"))  # a name that nothing includes
    return mujoco.MjModel.from_xml_path(place, {place: xml.encode()})


def _files_below(xml: str, folder: Path) -> set[Path]:
    """Returns what XML of a task file names in its folder; MuJoCo lists what a file does."""
    if "file=" not in xml:
        return set()
    with tempfile.TemporaryDirectory() as made:
        stand_in = Path(os.path.realpath(made))
        for entry in folder.iterdir():
            (stand_in / entry.name).symlink_to(entry)
        text = stand_in / f"{stand_in.name}.xml"
        text.write_text(xml, encoding="utf-8")
        files = files_of_model(text) - {text}
        return {folder / file.relative_to(stand_in) for file in files if stand_in in file.parents}
