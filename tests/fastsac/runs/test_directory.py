"""A run's directory: made once, never over another run's files."""

import dataclasses
import json

import pytest

from fastsac import SACConfig, TrainConfig
from fastsac.errors import RunError
from fastsac.runs import directory


def config(path, **fields):
    return TrainConfig("toy_task", run_dir=str(path), **fields)


def test_the_whole_configuration_is_written(tmp_path):
    run = config(tmp_path / "a" / "b", num_envs=3, sac=SACConfig(gamma=0.9, hidden_sizes=(8,)))
    path = directory.create(dataclasses.asdict(run), 1).path
    assert path == tmp_path / "a" / "b" and directory.recorded_task(path) == "toy_task"
    fields = json.loads((path / directory.CONFIG).read_text())
    sac = fields.pop("sac")
    again = TrainConfig(
        **fields, sac=SACConfig(**sac | {"hidden_sizes": tuple(sac["hidden_sizes"])})
    )
    assert again == run


def test_an_empty_directory_is_used_and_a_name_is_made_up(tmp_path, monkeypatch):
    assert directory.create(dataclasses.asdict(config(tmp_path)), 1).path == tmp_path
    monkeypatch.chdir(tmp_path)
    path = directory.create(dataclasses.asdict(TrainConfig("toy_task")), 1).path
    assert path.parent.name == "runs" and path.name.startswith("toy_task-")


@pytest.mark.parametrize("name, what", [(directory.CONFIG, "another run"), ("x", "other files")])
def test_a_directory_in_use_is_refused_and_left_alone(name, what, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunError, match=f"{what}; choose another --run-dir"):
        directory.create(dataclasses.asdict(config(tmp_path)), 1)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_file_in_the_way_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError) as caught:
            directory.create(dataclasses.asdict(config(path)), 1)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_too_little_disk_is_refused_with_both_numbers_and_nothing_is_written(tmp_path):
    with pytest.raises(RunError, match=r"need about 1000000000000\.0 MB and [\d.]+ MB of disk"):
        directory.create(dataclasses.asdict(config(tmp_path / "new" / "run")), 10**18)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{", "[]", "{}", "3"])
def test_a_damaged_configuration_is_a_sentence(content, tmp_path):
    assert directory.recorded_task(tmp_path) is None
    (tmp_path / directory.CONFIG).write_text(content)
    with pytest.raises(RunError, match="is damaged"):
        directory.recorded_task(tmp_path)
