"""TensorBoard reads what a run wrote, before and after it was resumed."""

import resource
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastsac.runs.tensorboard_file import TensorBoardFile


def scalars(folder, name):
    accumulator = EventAccumulator(str(folder)).Reload()
    return [(x.step, x.value) for x in accumulator.Scalars(name)]


def test_rows_are_read_back(tmp_path):
    board = TensorBoardFile(tmp_path / "tensorboard")
    assert not (tmp_path / "tensorboard").exists(), "a file without rows"
    for step in (5, 10):
        board.write({"step": step, "alpha": step / 4, "q": 1.5})
    board.close()
    assert scalars(tmp_path / "tensorboard", "alpha") == [(5, 1.25), (10, 2.5)]
    assert scalars(tmp_path / "tensorboard", "q") == [(5, 1.5), (10, 1.5)]


def test_a_resumed_run_takes_the_place_of_what_was_lost(tmp_path):
    for resumed_at, steps in ((None, (5, 10, 15, 20)), (10, (15, 20, 25))):
        board = TensorBoardFile(tmp_path, resumed_at)
        for step in steps:
            board.write({"step": step, "q": step + (resumed_at or 0)})
        board.close()
    assert scalars(tmp_path, "q") == [(5, 5), (10, 10), (15, 25), (20, 30), (25, 35)]


def test_a_full_disk_is_an_oserror_and_later_rows_are_read(tmp_path):
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    board = TensorBoardFile(tmp_path)
    board.write({"step": 1, "q": 1.0})
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, most))
        for step in (2, 3):
            with pytest.raises(OSError, match="File too large|No space"):
                for _ in range(9):  # the first may fit, in part
                    board.write({"step": step, "q": 2.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    board.write({"step": 4, "q": 4.0})
    board.close()
    found = scalars(tmp_path, "q")
    assert found[0] == (1, 1.0) and found[-1] == (4, 4.0)


def test_a_clock_that_was_set_back_changes_nothing(tmp_path, monkeypatch):
    for hour, resumed_at, step in ((2, None, 5), (1, 5, 10), (0, 10, 15)):
        monkeypatch.setattr(time, "time_ns", lambda hour=hour: 10**18 + hour * 3600 * 10**9)
        board = TensorBoardFile(tmp_path, resumed_at)
        for late in (0, 5):  # the second is lost, and comes again
            board.write({"step": step + late, "q": float(hour)})
        board.close()
    assert scalars(tmp_path, "q") == [(5, 2.0), (10, 1.0), (15, 0.0), (20, 0.0)]
