"""What a user can get wrong. The command line prints these as one sentence."""


class UserError(Exception):
    """Bad input; the message is a sentence that says what to change."""

    exit_code = 2  # of the command line


class ConfigError(UserError):
    """A flag out of range, or two that contradict each other."""


class RunError(UserError):
    """A run directory that cannot be used."""


class CheckError(UserError):
    """What fails on this machine."""

    exit_code = 1


class NotFiniteError(UserError):
    """Rewards, losses or gradients that are no numbers, too often in a row, or a return."""

    exit_code = 3


class RankError(UserError):
    """A process of several that train together has ended, and with it the run."""

    exit_code = 4


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or made for something else."""


class DamagedError(CheckpointError):
    """A file of a run that is not what was written: cut off, or with other bits."""


def says_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, numpy, torch or JAX says that a device has no memory left."""
    signs = ("out of memory", "RESOURCE_EXHAUSTED", "can't allocate memory", "Unable to allocate")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def printable(text: str) -> str:
    """Returns text without what would steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def one_line(value: object) -> str:
    """Returns one line without what would steer a terminal."""
    return printable(" ".join(str(value).split()))
