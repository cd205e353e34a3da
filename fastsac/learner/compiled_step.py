"""A gradient step as one program that torch's Inductor compiles, on a CPU.

Its elementwise operations become a few loops instead of some 90 calls, matrix products stay those
of torch's libraries. What it computes is the eager step's to rounding, and its own to the last bit.
"""

import logging
import types
from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from fastsac.learner.cuda_graph import Fallback
from fastsac.learner.gradient_step import Metrics, gradient_step
from fastsac.learner.replay import Batch
from fastsac.learner.state import LearnerState

_Step = Callable[[Batch, torch.Tensor], Metrics]

# A loop over 200,000 weights takes one core 60 us; threads that wait for each other beside another
# program's take seconds. Some 60 calls from C++ and not from Python are 0.3 ms of an update's 4,
# and Inductor has the C++ ready in 40 s, the Python in 48.
_OPTIONS: dict[str, Any] = {"cpp.threads": 1, "cpp_wrapper": True}


class CompiledStep:
    """Does gradient steps of one learner, compiled at the first of each kind.

    A program is compiled for a batch's shape and layout, with the actor and without. It takes the
    learner's tensors as they are at each call; of the learner and its configuration nothing else
    may change.

    Args:
        learner: on a CPU.
        fallback: a strict one raises what a compilation failed of; otherwise all steps are eager
            from then on, after a warning.
    """

    def __init__(self, learner: LearnerState, fallback: Fallback):
        self._learner, self._fallback = learner, fallback
        self._programs: dict[Any, _Step] = {}
        self._is_eager = False

    def __call__(self, batch: Batch, noise: torch.Tensor, with_actor: bool) -> Metrics:
        """See ``gradient_step``; losses are always reported.

        Raises:
            Exception: of a strict fallback, what the compilation failed of; nothing was changed.
        """
        if self._is_eager:
            return gradient_step(self._learner, batch, noise, with_actor)
        kind = with_actor, len(batch.reward), *(column.stride() for column in batch)
        # One tensor in two places would be taken for both in every later batch too.
        batch = Batch(*(column.view_as(column) for column in batch))
        if kind in self._programs:
            return self._programs[kind](batch, noise)
        program = self._program(with_actor)
        try:
            metrics = program(batch, noise)
        except TorchDynamoException as error:  # before anything has run
            if self._fallback.strict:
                raise
            self._is_eager = True
            cause = getattr(error, "inner_exception", None) or error.__cause__ or error
            logging.getLogger("fastsac").warning(
                "the learner's updates run as operations of torch, more slowly: compiling them "
                "failed with %s: %s",
                type(cause).__name__,
                str(cause).strip().split("\n")[0],
            )
            return gradient_step(self._learner, batch, noise, with_actor)
        self._programs[kind] = program
        return metrics

    def _program(self, with_actor: bool) -> _Step:
        learner = self._learner

        def step(batch: Batch, noise: torch.Tensor) -> Metrics:
            return gradient_step(learner, batch, noise, with_actor)

        # Dynamo files what it compiles under a function's code and looks at hundreds of conditions
        # at each call, 0.2 ms of 4; a code of its own has one entry, whose conditions all hold.
        own = types.FunctionType(
            step.__code__.replace(), step.__globals__, step.__name__, None, step.__closure__
        )
        unguarded = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
        return torch.compile(own, fullgraph=True, dynamic=False, options=_OPTIONS | unguarded)
