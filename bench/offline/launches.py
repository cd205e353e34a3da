"""What a program that XLA compiled for CUDA launches: read from its thunks, counted by loop.

XLA writes the thunks of an executable, in their order, to ``thunk_sequence.txt``; what it does not
write there are the trip counts of loops, which the optimised HLO has. The while loops of both come
in the same order, so the one is read beside the other.

How a thunk runs is in XLA's source (xla/backends/gpu/runtime, read 2026-11): WhileThunk runs its
body so often if it knows how often; otherwise it runs the condition before each round, copies the
answer to the host and waits for it there, so r rounds are r + 1 waits.

XLA puts runs of thunks into command buffers, which are CUDA graphs: what the host then launches is
in ``thunk_sequence_after_thunk_passes.txt``, which is read alike, a graph as one launch.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator

# Kinds of thunks that put work on the stream. Others, such as events, are no launches.
_KERNELS = {"kKernel", "kCustomKernel", "kCollectiveKernel"}
_COPIES = {"kCopy", "kMemzero", "kMemset32BitValue", "kDynamicMemcpy", "kHostMemcpy"}
_COPIES |= {"kDeviceToDeviceCopy", "kDeviceToHostCopy", "kHostToDeviceCopy"}
_LIBRARY = {"kCholesky", "kTriangularSolve", "kGemm", "kCublasLtMatmul", "kCustomCall", "kCuDnn"}
_LIBRARY |= {"kCubSort", "kFft", "kConvolution", "kNorm", "kLegacyCustomCall", "kCublasLtMatmulF8"}
_LIBRARY |= {"kSelectK"}
_NOT_ON_THE_STREAM = {"kWhile", "kSequential", "kWaitForStreams", "kDynamicSlice", "kAsyncStart"}
_NOT_ON_THE_STREAM |= {"kAsyncDone", "kCopyDone"}

_THUNK = re.compile(r"( *)\d+: (k\w+)")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .+ \{")
_WHILE = re.compile(r" while\(.*[ ,]condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Launches:
    """Numbers of launches on the stream.

    Attributes:
        kernels: of XLA's own.
        library: calls of cuSOLVER, cuBLAS and CUB, each of which launches one kernel or more.
        copies: on the device, and fills.
        graphs: CUDA graphs (XLA's command buffers), each with all that it holds.
    """

    kernels: int = 0
    library: int = 0
    copies: int = 0
    graphs: int = 0

    def __add__(self, other: "Launches") -> "Launches":
        return Launches(*(a + b for a, b in zip(self.parts, other.parts, strict=True)))

    def __mul__(self, times: int) -> "Launches":
        return Launches(*(part * times for part in self.parts))

    @property
    def parts(self) -> tuple[int, int, int, int]:
        """The four numbers."""
        return self.kernels, self.library, self.copies, self.graphs

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.parts)


@dataclasses.dataclass(frozen=True)
class Block:
    """Thunks that run one after another.

    Attributes:
        own: launches outside its loops.
        loops: those in it, in their order.
    """

    own: Launches
    loops: tuple["Loop", ...] = ()


@dataclasses.dataclass(frozen=True)
class Loop:
    """A while loop.

    Attributes:
        trips: how often its body runs; None where the data decide.
        condition: what decides.
        body: a round.
    """

    trips: int | None
    condition: Block
    body: Block


Rounds = Callable[[tuple[Loop, ...]], int]  # of a loop of unknown trips, given it behind its outer


def read(thunks: str, hlo: str) -> Block:
    """Returns a program's launches.

    Args:
        thunks: the text of its ``thunk_sequence.txt``, or of the one after thunk passes.
        hlo: its optimised HLO module, scheduled.

    Raises:
        ValueError: the two do not belong together, or hold what is not understood here.
    """
    lines = _Lines(thunks)
    block = _block(lines, 0, _loops(hlo))
    if lines.peek() is not None:
        raise ValueError(f"a thunk sequence goes on with {lines.peek()!r:.80}")
    return block


def total(block: Block, rounds: Rounds, _outer: tuple[Loop, ...] = ()) -> Launches:
    """Returns what a block launches, its loops included.

    Args:
        block: the block.
        rounds: takes a loop whose data decide, behind the loops around it, and returns its rounds.
    """
    count = block.own
    for loop in block.loops:
        path = (*_outer, loop)
        body, condition = (total(part, rounds, path) for part in (loop.body, loop.condition))
        if loop.trips is None:
            times = rounds(path)
            count += condition * (times + 1) + body * times
        else:
            count += body * loop.trips
    return count


def waits(block: Block, rounds: Rounds, _outer: tuple[Loop, ...] = ()) -> int:
    """Returns how often the host waits for the device: see ``total``."""
    count = 0
    for loop in block.loops:
        path = (*_outer, loop)
        times = rounds(path) if loop.trips is None else loop.trips
        count += waits(loop.body, rounds, path) * times
        if loop.trips is None:
            count += waits(loop.condition, rounds, path) * (times + 1) + times + 1
    return count


class _Lines:
    """The lines of a thunk sequence, one at a time."""

    def __init__(self, text: str):
        # An empty sequence is "No thunks." without an end of its line.
        text = text.replace("No thunks.", "\n")
        # A sequential thunk's first one follows on its own line.
        text = re.sub(r"(: kSequential\b[^\n]*?)( +\d+: k)", r"\1\n\2", text)
        self._lines = [line for line in text.splitlines() if line.strip()]
        self._at = 0

    def peek(self) -> str | None:
        return self._lines[self._at] if self._at < len(self._lines) else None

    def next(self) -> str | None:
        line = self.peek()
        self._at += 1
        return line

    def expect(self, marker: str) -> None:
        if (self.next() or "").strip() != marker:
            raise ValueError(f"a while thunk without its {marker!r}")


def _block(lines: _Lines, depth: int, loops: "Iterator[_Named]") -> Block:
    """Reads the thunks that are indented so deep, and those within them."""
    own, found = Launches(), list[Loop]()
    while (line := lines.peek()) and (match := _THUNK.match(line)):
        indent, kind = _indent(match), match[2]
        if indent < depth:
            break
        lines.next()
        if kind == "kWhile":
            named = next(loops, None)
            if named is None:
                raise ValueError("more while thunks than the HLO has loops")
            lines.expect("condition:")
            condition = _block(lines, indent + 2, iter(named.condition))
            lines.expect("body:")
            body = _block(lines, indent + 2, iter(named.body))
            found.append(Loop(named.trips, condition, body))
        elif kind == "kCommandBuffer":
            _skip_graph(lines, indent, loops)
        own += _launch(kind)
    if next(loops, None) is not None:
        raise ValueError("fewer while thunks than the HLO has loops")
    return Block(own, tuple(found))


def _skip_graph(lines: _Lines, depth: int, loops: "Iterator[_Named]") -> None:
    """Passes over what a command buffer holds: its loops run on the device."""
    while (line := lines.peek()) and not (
        (match := _THUNK.match(line)) and _indent(match) <= depth
    ):
        if match is None and line.strip() not in ("condition:", "body:"):
            break
        lines.next()
        if match and match[2] == "kWhile" and _indent(match) == depth + 2:
            next(loops, None)


def _indent(match: re.Match[str]) -> int:
    return len(match[1]) // 2


def _launch(kind: str) -> Launches:
    if kind == "kCommandBuffer":
        return Launches(graphs=1)
    if kind in _KERNELS:
        return Launches(kernels=1)
    if kind in _LIBRARY:
        return Launches(library=1)
    if kind in _COPIES:
        return Launches(copies=1)
    if kind in _NOT_ON_THE_STREAM:
        return Launches()
    raise ValueError(f"a thunk of the unknown kind {kind}")


@dataclasses.dataclass(frozen=True)
class _Named:
    """A loop of the HLO."""

    trips: int | None
    condition: list["_Named"]
    body: list["_Named"]


def _loops(hlo: str) -> Iterator[_Named]:
    """Yields the loops of a module's entry, in the schedule's order."""
    computations: dict[str, list[str]] = {}
    entry = ""
    lines: list[str] = []
    for line in hlo.splitlines():
        if match := _COMPUTATION.match(line):
            lines = computations[match[2]] = []
            entry = match[2] if match[1] else entry
        elif " while(" in line:
            lines.append(line)
    if not entry:
        raise ValueError("an HLO module without an entry")

    def within(name: str) -> list[_Named]:
        found = []
        for line in computations[name]:
            if not (match := _WHILE.search(line)):
                raise ValueError(f"a loop that cannot be read: {line.strip():.80}")
            trips = _TRIPS.search(line)
            inside = within(match[1]), within(match[2])
            found.append(_Named(int(trips[1]) if trips else None, *inside))
        return found

    return iter(within(entry))
