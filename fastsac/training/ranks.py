"""Training on several devices: processes that torchrun starts, each with worlds of its own.

They hold the same weights, since they average their gradients, and make the same decisions, since
they agree on what only one of them can know: a signal, the clock. Rank 0 writes the run.
"""

import itertools
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from fastsac.errors import ConfigError, RankError, says_out_of_memory
from fastsac.learner.peers import Peers
from fastsac.seeding import stream_seed
from fastsac.training.heartbeat import Heartbeat
from fastsac.training.interruption import StopSignals

# How long a rank waits for another that lives: rank 0 may be writing a replay of many GB.
_PATIENCE = timedelta(hours=1)
# Of the final evaluation.
_LONG_PATIENCE = timedelta(days=7)
_joined = itertools.count()


class Ranks:
    """This process alone, where no torchrun started it.

    Attributes:
        rank: its number.
        size: how many processes train together.
        of_machine: how many of them on this machine.
        restarted: whether torchrun starts it anew after one of them died.
        peers: the learner's; None where it is alone.
    """

    rank, size, of_machine = 0, 1, 1
    restarted = False
    peers: Peers | None = None

    def seed(self, seed: int) -> int:
        """Returns the seed of what differs from rank to rank; rank 0's is the run's."""
        return stream_seed(seed, f"rank {self.rank}") if self.rank else seed

    def agree(self, signals: StopSignals, late: bool, due: bool) -> tuple[bool, bool]:
        """Returns whether any rank is late and any is due; a signal to one is received by all."""
        return late, due

    def gather(self, values: list[float]) -> list[list[float]]:
        """Returns every rank's values, as many of each; rank 0's first."""
        return [values]

    def require_alike(self, facts: dict[str, Any]) -> None:
        """Refuses ranks that differ in what all must have alike.

        Raises:
            ConfigError: with the first fact that differs, and the two ranks.
        """

    def from_first(self, value: Any) -> Any:
        """Returns rank 0's value: numbers, strings, tensors, and dicts and lists of them."""
        return value

    def send(self, value: Any, to: int) -> None:
        """Hands another rank a value, once that asks for it."""
        raise AssertionError("there is nobody else")

    def receive(self, source: int) -> Any:
        """Returns the value that another rank sends to this one."""
        raise AssertionError("there is nobody else")

    def publish(self, result: Any) -> Any:
        """Returns rank 0's result, for which the others wait as long as it takes."""
        return result

    def remember(self, run_dir: Path) -> None:
        """Keeps the run's directory for a restart."""

    def remembered(self) -> Path | None:
        """Returns the directory of the run that a restart goes on with."""
        return None


class _Torchrun(Ranks):
    """The processes of one torchrun; a context's, see ``joined``."""

    def __init__(self) -> None:
        number, get = next(_joined), os.environ
        self.rank, self.size = int(get["RANK"]), int(get["WORLD_SIZE"])
        self.of_machine = int(get["LOCAL_WORLD_SIZE"])
        restarts = int(get["TORCHELASTIC_RESTART_COUNT"])
        self.restarted = restarts > 0
        self.peers = self
        hosts = self.rank == 0 and get.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        # torchrun's store, which lives through its restarts.
        self._kept = _connect(number, hosts)
        self._store = dist.PrefixStore(f"attempt {restarts}", self._kept)
        # Of a rank without a GPU among others that have one, require_alike says so later.
        self._store.set(f"gpu {self.rank}", str(torch.cuda.is_available()))
        all_have = all(self._store.get(f"gpu {rank}") == b"True" for rank in range(self.size))
        backend = "cpu:gloo,cuda:nccl" if all_have else "gloo"
        group = dist.PrefixStore("group", self._store)
        dist.init_process_group(
            backend, store=group, rank=self.rank, world_size=self.size, timeout=_PATIENCE
        )
        beats = dist.PrefixStore(f"attempt {restarts}", _connect(number, False))
        self._heartbeat = Heartbeat(self._store, beats, self.rank, self.size)

    def close(self, error: BaseException | None) -> None:
        """Leaves the others."""
        words = () if error is None else (str(error) or type(error).__name__,)
        self._heartbeat.leave(*words)
        dist.destroy_process_group()
        self._heartbeat.close()  # last: NCCL may wait for a dead rank, and the beat ends that

    def sum_(self, tensor: torch.Tensor) -> None:
        """Adds up a tensor over all ranks, in place."""
        with self._all_there():
            dist.all_reduce(tensor)

    def agree(self, signals: StopSignals, late: bool, due: bool) -> tuple[bool, bool]:
        """Returns whether any rank is late and any is due; a signal to one is received by all."""
        flags = torch.tensor([signals.held or 0, late, due])
        with self._all_there():
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        number, any_late, any_due = flags.tolist()
        signals.receive(number)
        return bool(any_late), bool(any_due)

    def gather(self, values: list[float]) -> list[list[float]]:
        """Returns every rank's values, as many of each; rank 0's first."""
        own = torch.tensor(values, dtype=torch.float64)
        rows = [torch.empty_like(own) for _ in range(self.size)]
        with self._all_there():
            dist.all_gather(rows, own)
        return [row.tolist() for row in rows]

    def require_alike(self, facts: dict[str, Any]) -> None:
        """Refuses ranks that differ in what all must have alike.

        Raises:
            ConfigError: with the first fact that differs, and the two ranks.
        """
        every: list[Any] = [None] * self.size
        with self._all_there():
            dist.all_gather_object(every, facts)
        for rank, other in enumerate(every):
            for what, value in every[0].items():
                if other[what] != value:
                    raise ConfigError(
                        f"all ranks need the same {what}: rank 0 has {value}, rank {rank} "
                        f"{other[what]}"
                    )

    def from_first(self, value: Any) -> Any:
        """Returns rank 0's value: numbers, strings, tensors, and dicts and lists of them."""
        holder = [value]
        with self._all_there():
            dist.broadcast_object_list(holder)
        return holder[0]

    def send(self, value: Any, to: int) -> None:
        """Hands another rank a value, once that asks for it."""
        with self._all_there():
            dist.send_object_list([value], to)

    def receive(self, source: int) -> Any:
        """Returns the value that another rank sends to this one."""
        holder = [None]
        with self._all_there():
            dist.recv_object_list(holder, source)
        return holder[0]

    def publish(self, result: Any) -> Any:
        """Returns rank 0's result, for which the others wait as long as it takes."""
        if self.rank == 0:
            self._store.set("result", pickle.dumps(result).hex())
        else:
            # No collective, whose patience is shorter; the heartbeat ends this where rank 0 dies.
            self._store.wait(["result"], _LONG_PATIENCE)
        return pickle.loads(bytes.fromhex(self._store.get("result").decode()))

    def remember(self, run_dir: Path) -> None:
        """Keeps the run's directory for a restart."""
        self._kept.set("run", str(run_dir.absolute()))

    def remembered(self) -> Path | None:
        """Returns the directory of the run that a restart goes on with."""
        if not self.restarted or not self._kept.check(["run"]):
            return None
        return Path(self._kept.get("run").decode())

    @contextmanager
    def _all_there(self) -> Iterator[None]:
        """Says which rank is not, where a collective fails.

        Raises:
            RankError: one has ended.
        """
        try:
            yield
        except RuntimeError as error:
            if says_out_of_memory(error):
                raise
            lost = self._heartbeat.lost() or f"a rank has ended ({error})"
            raise RankError(
                f"{lost}, and with it the run: torchrun --max-restarts or fastsac train --resume "
                "go on from the newest checkpoint"
            ) from error


@contextmanager
def joined() -> Iterator[Ranks]:
    """Joins the ranks that torchrun started with this one; without torchrun this process is alone.

    On a machine with GPUs it first confines this process to the one of its LOCAL_RANK, so that
    neither torch nor jax nor Warp takes memory of another.

    Raises:
        ConfigError: torch.distributed or CUDA is in use already.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield Ranks()
        return
    if dist.is_initialized() or torch.cuda.is_initialized():
        what = "a process group" if dist.is_initialized() else "a GPU"
        raise ConfigError(
            f"this process has {what} already: under torchrun fastsac takes its own, before any "
            "other use"
        )
    _confine()
    ranks = _Torchrun()
    try:
        yield ranks
    except BaseException as error:
        ranks.close(error)
        raise
    ranks.close(None)


def _connect(number: int, hosts: bool) -> dist.Store:
    """Returns a client of the store that all ranks share, for the run of this number."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    size = int(os.environ["WORLD_SIZE"])
    store = dist.TCPStore(address, port, size, hosts, multi_tenant=True)
    return dist.PrefixStore(f"fastsac {number}", store)


# CUDA_VISIBLE_DEVICES as this module has set it -> what was there before.
_visible_before: dict[str, str | None] = {}


def _confine() -> None:
    """Leaves CUDA one device, for torch, jax and Warp alike: none of them has started it yet."""
    rank, visible = int(os.environ["LOCAL_RANK"]), os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:  # of this process's second run
        visible = _visible_before.get(visible, visible)
    own = "".join([str(rank)] if visible is None else visible.split(",")[rank : rank + 1])
    _visible_before[own] = visible
    os.environ["CUDA_VISIBLE_DEVICES"] = own


ALONE = Ranks()
