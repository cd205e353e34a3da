"""Scalars for TensorBoard, written at once, so that a full disk is the caller's to handle.

SummaryWriter's thread would die of it, with a traceback on the terminal.
"""

import errno
import io
import os
import socket
import time
from pathlib import Path
from typing import BinaryIO

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class TensorBoardFile:
    """An event file, begun with the first row.

    Args:
        folder: of the run's event files.
        resumed_at: the step that a run goes on from: what older files have of later steps is void.
    """

    def __init__(self, folder: Path, resumed_at: float | None = None):
        self._folder, self._resumed_at = folder, resumed_at
        self._file: BinaryIO | None = None
        self._files = 0

    def write(self, row: dict[str, float]) -> None:
        """Appends a row's values at its step.

        Raises:
            OSError: the disk is full; the next row begins a new file.
        """
        values = [Summary.Value(tag=k, simple_value=v) for k, v in row.items() if k != "step"]
        event = Event(wall_time=time.time(), step=int(row["step"]), summary=Summary(value=values))
        try:
            self._append(event)
        except OSError:
            self.close()  # what was written in part cannot be read over
            raise

    def close(self) -> None:
        """Closes the file."""
        file, self._file = self._file, None
        if file:
            file.close()

    def _append(self, event: Event) -> None:
        if self._file is None:
            self._folder.mkdir(exist_ok=True)
            # Readers go by the names: a clock that was set back must not put this file first.
            files = self._folder.glob("events.out.tfevents.*")
            times = [int(t) for file in files if (t := file.name.split(".")[3]).isdecimal()]
            now = max([time.time_ns(), *(t + 1 for t in times)])
            name = f"{now}.{socket.gethostname()}.{os.getpid()}.{self._files}"
            self._files += 1
            # Unbuffered: nothing is left behind that a later close would fail to write.
            self._file = (self._folder / f"events.out.tfevents.{name}").open("wb", buffering=0)
            self._record(Event(wall_time=time.time(), file_version="brain.Event:2"))
            if self._resumed_at is not None:
                start = SessionLog(status=SessionLog.START)
                step = int(self._resumed_at) + 1
                self._record(Event(wall_time=time.time(), step=step, session_log=start))
                self._resumed_at = None
        self._record(event)

    def _record(self, event: Event) -> None:
        assert self._file
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        if self._file.write(record.getbuffer()) < record.tell():  # a disk that was filled up by it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
