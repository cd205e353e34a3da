"""Which OpenGL MuJoCo and dm_control load when they are imported: films need one, physics none."""

import ctypes.util
import importlib
import os

_LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}
_OFF = ("disable", "disabled", "off", "false", "0")
_NAMES = ("glfw", "on", "enable", "enabled", "true", "1", "", *_LIBRARIES, *_OFF)


def choose() -> str:
    """Sets MUJOCO_GL to what can be imported here, before MuJoCo is.

    Without a display MuJoCo's default prints errors; EGL renders headless.

    Returns:
        Why the user's own value was put aside, or "".
    """
    asked, platform = os.environ.get("MUJOCO_GL"), os.environ.get("PYOPENGL_PLATFORM", "").lower()
    if asked is None:
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            first = platform if platform in _LIBRARIES else "egl"
            is_here = ctypes.util.find_library(_LIBRARIES[first])
            os.environ["MUJOCO_GL"] = first if is_here else "disabled"
        return ""
    name = asked.lower().strip()  # dm_control takes small letters alone
    platform = platform or name
    why = ""
    if name not in _NAMES:
        why = f"MUJOCO_GL={asked} is none of egl, osmesa, glfw and disabled"
    elif name in _LIBRARIES and not ctypes.util.find_library(_LIBRARIES[name]):
        why = f"MUJOCO_GL={asked} needs lib{_LIBRARIES[name]}, which is not here"
    elif name in _LIBRARIES and platform != name:
        why = f"MUJOCO_GL={asked} contradicts PYOPENGL_PLATFORM={platform}"
    os.environ["MUJOCO_GL"] = "disabled" if why else name
    return why


def load() -> str:
    """Imports MuJoCo and what dm_control draws with, without it where that fails.

    Returns:
        Why it failed, as where EGL has no driver, or "".
    """
    why = ""
    try:
        importlib.import_module("mujoco")
        importlib.import_module("dm_control._render")
    except (AttributeError, ImportError, RuntimeError) as error:  # each of PyOpenGL's backends
        why = f"MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}: {error}"
        os.environ["MUJOCO_GL"] = "disabled"
        importlib.import_module("mujoco")
        importlib.import_module("dm_control._render")
    return why
