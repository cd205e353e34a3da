"""JAX's persistent compilation cache, so that a second start reads what the first compiled."""

import hashlib
import logging
import os
import platform
import shutil
import tempfile
from pathlib import Path

import jax

# On a full disk jax would leave cut entries, which it complains of at every later start.
_LEAST_FREE_BYTES = 100_000_000
_OF_THE_CPU = ("model name", "flags", "CPU part", "Features")  # of x86, then of Arm
# To compile the start and the step on two cores, by domain. Measured: pendulum, reacher, cartpole
# (14, 25 and 30 s of CPU time, jaxlib 0.10.2); the others by what one control step takes there.
_COMPILE_SECONDS = {
    **{"pendulum": 10, "reacher": 20, "cartpole": 30, "cheetah": 30, "hopper": 40},
    **{"finger": 60, "humanoid": 60, "swimmer": 90, "manipulator": 100, "quadruped": 110},
    **{"stacker": 130, "humanoid_CMU": 200},
}
_OTHER_SECONDS = 30


def use_compilation_cache() -> None:
    """Turns the cache on for the whole process, in the user's cache directory.

    For the command line alone; a program that embeds fastsac has jax's own settings. What the user
    set himself (JAX_COMPILATION_CACHE_DIR, JAX_ENABLE_COMPILATION_CACHE) stays. A directory that
    cannot be written costs a warning, and each start compiles.
    """
    settings = jax.config.values
    chosen = settings["jax_compilation_cache_dir"] is not None
    if chosen or not settings["jax_enable_compilation_cache"]:
        return
    try:
        directory = cache_directory()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
        if shutil.disk_usage(directory).free < _LEAST_FREE_BYTES:
            raise OSError(f"{directory} has no room")
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        logging.getLogger("fastsac").warning("the next start has to compile again: %s", error)
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # jax keeps what took a second; the native engine's two functions take 0.1 to 0.5 s.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def is_cache_used() -> bool:
    """Returns whether jax keeps what it compiles, here or where the user wants it."""
    settings = jax.config.values
    return bool(settings["jax_compilation_cache_dir"] and settings["jax_enable_compilation_cache"])


def cache_directory() -> Path:
    """Returns where this machine's compiled functions lie: jax-CPU in fastsac's cache directory.

    jax's own key holds its version and the GPU's kind but not the CPU, and code for one with more
    instructions ends the process on another with the same home directory.

    Raises:
        RuntimeError: there is no home directory.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    # The standard (XDG base directories) has relative paths ignored.
    cache = Path(root) if root and os.path.isabs(root) else Path.home() / ".cache"
    facts = {platform.machine()}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts |= {line for line in lines if line.partition(":")[0].strip() in _OF_THE_CPU}
    except OSError:
        pass
    cpu = hashlib.sha256("\n".join(sorted(facts)).encode()).hexdigest()[:12]
    return cache / "fastsac" / f"jax-{cpu}"


def compile_notice(domain: str) -> str:
    """Returns the sentence before MJX compiles a domain's model, with about how long it takes."""
    seconds = _COMPILE_SECONDS.get(domain, _OTHER_SECONDS)
    once = ", once: the next start reads most of it from the cache" if is_cache_used() else ""
    return f"compiling the physics, about {seconds} s on two CPU cores{once}"
