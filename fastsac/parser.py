"""The parser of every command's flags."""

import argparse
import os
from collections.abc import Sequence
from typing import Any, NoReturn

from fastsac.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """argparse that reports an error as the sentence it is."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but ``--flag=--`` is an error; up to Python 3.12 its value is a list."""
        parsed, unknown = super().parse_known_args(args, namespace)
        for action in self._actions:
            value = getattr(parsed, action.dest, None)
            values = value if isinstance(action.default, list) else [value]
            if action.nargs is None and values is not None and [] in values:
                self.error(f"argument {action.option_strings[-1]}: expected one argument")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage."""
        raise ConfigError(f"{self.prog.removeprefix('fastsac ')}: {message}")


def require_typable(args: Sequence[str]) -> None:
    """Refuses what no shell could pass, from a program that calls main."""
    for arg in args:
        try:
            typable = b"\0" not in os.fsencode(arg)
        except UnicodeEncodeError:
            typable = False
        if not typable:
            raise ConfigError(f"an argument cannot hold {arg!r}")
