"""What a user can get wrong. The command line prints these as one sentence and exits with 2."""


class UserError(Exception):
    """Bad input; the message is a sentence that says what to change."""


class ConfigError(UserError):
    """A flag out of range, or two that contradict each other."""


class RunError(UserError):
    """A run directory that cannot be used."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or made for something else."""
