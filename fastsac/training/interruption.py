"""Signals that ask a run to stop, put off until it can stop without losing anything."""

import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # SIGHUP: the terminal is closed


class StopSignals:
    """Within its context SIGINT, SIGTERM and SIGHUP are remembered; a second one acts at once.

    Outside the main thread, where Python delivers no signals, nothing changes.

    Args:
        hold: leave what arrives in ``held`` until ``receive``, for processes that agree on it; a
            second one then does nothing, since a terminal's Ctrl-C comes from torchrun too.

    Attributes:
        received: the first of them, or None.
        held: the first of them that arrived here, or None.
        ignored: those that stay ignored, since the process that started this one ignores them, as
            nohup and a shell's & do; none outside the main thread.
    """

    def __init__(self, hold: bool = False) -> None:
        self.received: signal.Signals | None = None
        self.held: signal.Signals | None = None
        self._hold = hold
        here = threading.current_thread() is threading.main_thread()
        ignored = [n for n in _SIGNALS if signal.getsignal(n) == signal.SIG_IGN]
        self.ignored = ignored if here else []
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.getsignal(number)
                if before is not None and number not in self.ignored:  # None: a C library's
                    self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def receive(self, number: int) -> None:
        """Takes what the processes agreed on: a signal's number, or 0."""
        self.received = signal.Signals(number) if number else None

    def raise_received(self) -> None:
        """Raises what the signal stands for: KeyboardInterrupt, or SystemExit with its code."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is not None:
            raise SystemExit(128 + self.received)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.held = signal.Signals(number)
        if not self._hold:
            self.received = self.held
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
