"""What a program that trains is told while it does, and how it ends the training."""

import dataclasses
from collections.abc import Callable, Mapping

Row = Mapping[str, float]
Callback = Callable[[Row], bool | None]


@dataclasses.dataclass
class Callbacks:
    """A program's two functions; either may end the run by returning True.

    Attributes:
        on_log: takes a row of metrics.csv, as often as one is written, without an evaluation.
        on_evaluation: takes the row of an evaluation, with "eval_return" and "eval_return_std".
        stop: whether one of them has returned True.
    """

    on_log: Callback | None = None
    on_evaluation: Callback | None = None
    stop: bool = False

    def hear(self, row: Row) -> None:
        """Tells the function whose row it is.

        Raises:
            Exception: whatever the function raised.
        """
        function = self.on_evaluation if "eval_return" in row else self.on_log
        if function and function(dict(row)):
            self.stop = True
