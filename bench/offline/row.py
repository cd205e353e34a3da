"""A row of ``fastsac bench offline``: what its programs' launches come to in a control step."""

from typing import Any

from fastsac.bench.offline.launches import Block, Launches, Loop, total, waits

Row = dict[str, Any]

# Worlds' episodes are spread, so that as many end on each step: one round of resets.
RESET_ROUNDS = 1


def block_of(found: dict[str, Any]) -> Block:
    """Returns a program's launches from its JSON."""

    def loop(of: dict[str, Any]) -> Loop:
        return Loop(of["trips"], block_of(of["condition"]), block_of(of["body"]))

    return Block(Launches(**found["own"]), tuple(map(loop, found["loops"])))


class Step:
    """A control step's launches, taken apart by what its loops do.

    Args:
        block: the program.
        substeps: physics steps a control step; their loop is the one that runs so often.
        line_search: rounds of a line search whose end the data decide, at most.
        resets: whether the last loop of the entry that the data decide resets worlds.

    Attributes:
        entry: outside all of these loops.
        substep: a physics step outside its solver's loops.
        solvers: the solver's loops of a physics step; RK4 has four.
        reset: the loop over rounds of resets.
    """

    def __init__(self, block: Block, substeps: int, line_search: int, resets: bool):
        self._block, self._line_search, self._substeps = block, line_search, substeps
        open_ended = [loop for loop in block.loops if loop.trips is None]
        self.reset = open_ended.pop() if resets and open_ended else None
        found = [loop for loop in block.loops if loop.trips == substeps and substeps > 1]
        within = max(found, key=lambda loop: self._size(loop.body), default=None)
        self._within = within
        # One substep needs no loop; it is then part of the entry.
        self.substep_block = within.body if within else block
        self.solvers = [
            loop
            for loop in self.substep_block.loops
            if loop.trips is None and loop is not self.reset
        ]

    def total(self, rounds: int) -> Launches:
        """Returns all launches of a control step with so many rounds of each solver."""
        return total(self._block, lambda path: self._rounds(path, rounds))

    def waits(self, rounds: int) -> int:
        """Returns how often the host waits for the device in a control step."""
        return waits(self._block, lambda path: self._rounds(path, rounds))

    def parts(self) -> dict[str, list[int]]:
        """Returns kernels, library calls and copies by what they belong to.

        A round of a solver or of resets is with its condition and without the loops in it that
        have a line of their own; an entry without a loop of substeps holds the only substep.
        """
        rounds = [loop.body for loop in self.solvers]
        parts = {
            "entry": self._without(self._block, {id(self.reset), id(self._within)}),
            "substep": self._without(self._within.body, set()) if self._within else Launches(),
            "solver_round": _sum(
                self._without(loop.body, set(map(id, loop.body.loops))) + self._flat(loop.condition)
                for loop in self.solvers
            ),
            "line_search_round": _sum(self._flat(inner.body) for b in rounds for inner in b.loops),
            "reset_round": self._flat(self.reset.body) + self._flat(self.reset.condition)
            if self.reset
            else Launches(),
        }
        return {name: list(of.parts[:3]) for name, of in parts.items()}

    def line_search_rounds(self) -> list[int]:
        """Returns the rounds of each line search of a round of the solvers."""
        inner = [loop for solver in self.solvers for loop in solver.body.loops]
        return [self._line_search if loop.trips is None else loop.trips for loop in inner]

    def _rounds(self, path: tuple[Loop, ...], rounds: int) -> int:
        """A loop within one that the data decide is a line search."""
        if path[-1] is self.reset:
            return RESET_ROUNDS
        inside = any(loop.trips is None and loop is not self.reset for loop in path[:-1])
        return self._line_search if inside else rounds

    def _without(self, block: Block, left_out: set[int]) -> Launches:
        """A block's launches without some of its loops, and without the solvers'."""
        left_out = left_out | set(map(id, self.solvers))
        kept = tuple(loop for loop in block.loops if id(loop) not in left_out)
        return self._flat(Block(block.own, kept))

    def _flat(self, block: Block) -> Launches:
        return total(block, lambda _: self._line_search)

    def _size(self, block: Block) -> int:
        return total(block, lambda _: 1).total


def _sum(parts: Any) -> Launches:
    return sum(parts, Launches())


def summary(row: Row) -> Row:
    """Returns the row with what its programs and rounds come to.

    "launches" has our control step in parts and in all, with the most rounds that a world needs
    and with their mean; "physics" the same of bare physics, "ratio" how many times its launches
    ours are, both with the most.
    """
    is_known = "reason" not in row["rounds"]
    is_known &= "reason" not in row["programs"].get("outcome", {})
    found = {
        name: _summed(row, program, resets=program == "step" and row["engine"] == "mjx")
        for name, program in (("launches", "step"), ("physics", "physics"))
        if is_known and "launches" in row["programs"].get(program, {})
    }
    if len(found) == 2:
        found["ratio"] = round(found["launches"]["total"] / found["physics"]["total"], 3)
    return {**row, **found}


def _summed(row: Row, program: str, resets: bool) -> Row:
    found, most = row["programs"][program], row["rounds"]["most"]
    blocks = {name: block_of(found[name]) for name in ("launches", "of_host")}
    if "outcome" in row["programs"] and program == "step":  # jax's part of Warp's step
        rest = {name: block_of(row["programs"]["outcome"][name]) for name in blocks}
        blocks = {k: Block(b.own + rest[k].own, b.loops + rest[k].loops) for k, b in blocks.items()}
    step, of_host = (
        Step(block, found["substeps"], row["ls_iterations"], resets) for block in blocks.values()
    )
    return {
        "total": step.total(most).total,
        "total_with_mean_rounds": step.total(round(row["rounds"]["mean"])).total,
        "of_host": of_host.total(most).total,
        "library_calls": step.total(most).library,
        "host_waits": of_host.waits(most),
        "solvers": len(step.solvers),
        "line_search_rounds": step.line_search_rounds(),
        "parts": step.parts(),
    }
