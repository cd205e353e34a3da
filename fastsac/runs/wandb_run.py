"""Weights & Biases, with --wandb: whether it can be used here, and a run of it."""

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastsac.errors import ConfigError

if TYPE_CHECKING:
    import wandb

_INIT_SECONDS = 30.0
# Of uploading what is left when training has ended: without a network it would never end.
_FINISH_SECONDS = 60.0


def require_wandb() -> None:
    """Finds out before anything is made whether a run can be logged.

    Raises:
        ConfigError: the package, the login or the network is missing.
    """
    try:
        import wandb
    except ImportError as error:
        raise ConfigError("--wandb needs wandb: pip install 'fastsac[wandb]'") from error
    if wandb.setup().settings.mode in ("offline", "disabled"):
        return
    try:
        logged_in = wandb.login(prompt=False, verify=True)
    except Exception as error:  # of the network, the server, or the key
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ConfigError(f"--wandb: {reason}; WANDB_MODE=offline works without") from error
    if not logged_in:
        raise ConfigError("--wandb needs `wandb login` first, or WANDB_MODE=offline")


def start_wandb(directory: Path, config: dict[str, Any]) -> "wandb.Run":
    """Starts a run in the project fastsac, or goes on with the one that the directory has.

    Args:
        directory: the run's; wandb's files go to its folder wandb.
        config: the run's.

    Raises:
        Exception: whatever stopped wandb.
    """
    import wandb

    folder = directory / "wandb"
    folder.mkdir(exist_ok=True)
    # By name alone, runs of two folders would be one.
    identity = folder / "run-id"
    if not identity.exists():
        identity.write_text(secrets.token_hex(4))
    run = wandb.init(
        project="fastsac",
        dir=directory,
        id=identity.read_text(),
        name=directory.name,
        resume="allow",
        config=config,
        settings=wandb.Settings(
            console="off",  # the terminal's live line is none of its business
            init_timeout=_INIT_SECONDS,
            finish_timeout=_FINISH_SECONDS,
            finish_timeout_raises=False,
        ),
    )
    # An evaluation's row comes after rows of later steps, which wandb's own counter refuses.
    run.define_metric("*", step_metric="step")
    return run
