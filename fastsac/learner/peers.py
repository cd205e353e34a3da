"""What the learner knows of the processes that learn with it, each from transitions of its own."""

from typing import Protocol

import torch


class Peers(Protocol):
    """Processes whose learners hold the same weights and make the same calls in the same order.

    Attributes:
        size: how many there are, this one included.
    """

    size: int

    def sum_(self, tensor: torch.Tensor) -> None:
        """Adds up a tensor over all of them, in place, to the same bits in each.

        On a GPU it is enqueued on the current stream and may be captured.
        """
        ...
