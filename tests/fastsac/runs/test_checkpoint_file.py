"""Checkpoints: atomic, never executed, refused with a sentence; and the policies they hold."""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from fastsac import SAC, SACConfig, TrainConfig, load_policy
from fastsac.errors import CheckpointError
from fastsac.runs import checkpoint_file
from fastsac.training.config import to_json

OBS, ACT = 5, 2
CONFIGS = {
    "v2": SACConfig(hidden_sizes=(8, 8)),
    "v1": SACConfig(hidden_sizes=(8,), temperature=0.1, num_critics=3),
    "normalised": SACConfig(hidden_sizes=(8, 8), normalize_obs=True),
}


def trained(name="v2"):
    agent = SAC(OBS, ACT, CONFIGS[name], seed=4)
    agent.observe(3 * torch.randn(20, OBS, generator=torch.Generator().manual_seed(0)) + 1)
    return agent


def state_of(agent, /, **other):
    return {
        "task": "toy_task",
        "obs_dim": OBS,
        "action_dim": ACT,
        "config": to_json(TrainConfig("toy_task", sac=agent.config)),
        "agent": agent.state_dict(),
        "counters": {"steps": 10, "updates": 3},
        **other,
    }


def saved(path, /, steps=10, **other):
    """A checkpoint in a run's directory."""
    file = path / checkpoint_file.FOLDER / checkpoint_file.name_of(steps)
    file.parent.mkdir(exist_ok=True)
    checkpoint_file.save(file, state_of(trained(), **other))
    return file


def framed(content):
    """What follows the header, with a header that fits it."""
    digest = hashlib.sha256(content).hexdigest()
    return f"fastsac checkpoint {checkpoint_file.FORMAT} {digest}\n".encode() + content


def refusal(path, read=checkpoint_file.load):
    """The sentence of the CheckpointError."""
    with pytest.raises(CheckpointError) as caught:
        read(path)
    sentence = str(caught.value)
    assert sentence and "\n" not in sentence, repr(sentence)
    return sentence


def test_what_is_saved_is_loaded(tmp_path):
    agent = trained()
    file = saved(tmp_path)
    assert os.listdir(file.parent) == ["000000000010.pt"]
    for path in (file, tmp_path, str(tmp_path)):
        state = checkpoint_file.load(path)
        assert state["counters"]["steps"] == 10
        restored = SAC(OBS, ACT, agent.config)
        restored.load_state_dict(state["agent"])
        assert torch.equal(restored.critics_flat, agent.critics_flat)


def test_saving_replaces_and_leaves_the_state_alone(tmp_path):
    file = saved(tmp_path, task="first")
    state = state_of(trained(), task="second")
    keys = set(state)
    checkpoint_file.save(file, state)
    assert set(state) == keys and checkpoint_file.load(tmp_path)["task"] == "second"
    assert os.listdir(file.parent) == [file.name]


def test_the_newest_good_checkpoint_is_taken_and_the_others_are_named(tmp_path, caplog):
    files = [saved(tmp_path, steps=n, task=f"task{n}") for n in (5, 40, 300)]
    assert checkpoint_file.load(tmp_path)["task"] == "task300"
    files[2].write_bytes(files[2].read_bytes()[:-1])
    assert checkpoint_file.load(tmp_path)["task"] == "task40"
    assert f"{files[2]} is truncated or damaged: its checksum differs" in caplog.text
    files[1].write_bytes(b"")
    assert checkpoint_file.load(tmp_path)["task"] == load_policy(tmp_path).task == "task5"
    files[0].write_bytes(b"")
    assert f"none of the 3 checkpoints of {tmp_path} can be read" in refusal(tmp_path)


@pytest.mark.parametrize("at", [0, 18, 20, 60])
def test_a_header_is_its_own_to_the_last_byte(at, tmp_path):
    file = saved(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[:at] + b" " + content[at:])
    assert "fastsac checkpoint" in refusal(file)


# A process that may write no file beyond a limit: what a full disk or a quota looks like.
FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from fastsac.runs import checkpoint_file
state = {"task": "new", "agent": {"weights": torch.ones(500_000)}}  # 2 MB
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for _ in range(2):
    try:
        checkpoint_file.save(Path(sys.argv[1]), state)
    except OSError as error:
        print(str(error))
print("training goes on")
"""


@pytest.mark.parametrize("limit", [0, 100_000])
def test_a_write_that_fails_leaves_the_old_checkpoint(limit, tmp_path):
    file = saved(tmp_path)
    before = file.read_bytes()
    command = [sys.executable, "-c", FULL_DISK, str(file), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *errors, last = done.stdout.splitlines()
    assert last == "training goes on" and len(errors) == 2
    assert all(line.startswith(f"could not write {file}") for line in errors)
    assert all("File too large" in line for line in errors), errors  # the reason, not its echo
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name], "half a file was left behind"


def test_a_directory_that_is_gone_is_an_oserror(tmp_path):
    with pytest.raises(OSError, match="could not write"):
        checkpoint_file.save(tmp_path / "gone" / "x.pt", state_of(trained()))


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path, monkeypatch):
    saved(tmp_path, task="old")
    seen, write = [], torch.save

    def read_while_writing(state, file):
        write(state, file)
        file.flush()
        seen.append(checkpoint_file.load(tmp_path)["task"])

    monkeypatch.setattr(torch, "save", read_while_writing)
    saved(tmp_path, task="new")
    assert seen == ["old"] and checkpoint_file.load(tmp_path)["task"] == "new"


@pytest.mark.parametrize("read", [checkpoint_file.load, load_policy])
def test_missing_checkpoints_are_named(read, tmp_path):
    assert str(tmp_path) in refusal(tmp_path, read)
    missing = tmp_path / "nowhere" / "x.pt"
    assert f"there is no checkpoint {missing}" in refusal(missing, read)


def test_truncated_files_are_refused_wherever_they_are_cut(tmp_path):
    file = saved(tmp_path)
    whole = file.read_bytes()
    for cut in sorted({*range(0, len(whole), 64), *range(1, 110), len(whole) - 1}):
        file.write_bytes(whole[:cut])
        for read in (checkpoint_file.load, load_policy):
            assert "truncated" in refusal(file, read), cut


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "content",
    [
        b"not a checkpoint\n",
        b"\x00" * 1000,
        bytes(range(256)) * 20,
        b"PK\x03\x04" + b"\xff" * 500,
        b"\x80\x02",
        json.dumps({"format": 1}).encode(),
        pickle.dumps({"format": 1}),
    ],
    ids=["text", "zeros", "bytes", "broken zip", "broken pickle", "json", "pickle"],
)
def test_garbage_is_refused(content, tmp_path):
    file = tmp_path / "x.pt"
    file.write_bytes(content)
    for read in (checkpoint_file.load, load_policy):
        assert str(file) in refusal(file, read)


@pytest.mark.parametrize("value", [{}, {"format": 1}, {"agent": {}}, [1, 2], torch.ones(3), 7])
def test_other_torch_files_are_refused(value, tmp_path):
    file = tmp_path / "x.pt"
    torch.save(value, file)
    assert "not a fastsac checkpoint" in refusal(file)
    file.write_bytes(framed(file.read_bytes()))
    assert "is not a fastsac checkpoint" in refusal(file)


def test_a_zip_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("hello.txt", "hello")
    refusal(tmp_path / "x.pt")


@pytest.mark.parametrize("key", ["task", "obs_dim", "action_dim", "config", "agent", "counters"])
def test_a_checkpoint_without_one_of_its_parts_is_refused(key, tmp_path):
    state = state_of(trained())
    del state[key]
    checkpoint_file.save(tmp_path / "x.pt", state)
    assert "is not a fastsac checkpoint" in refusal(tmp_path / "x.pt")


def test_another_format_is_refused_with_both_numbers(tmp_path):
    file = saved(tmp_path)
    file.write_bytes(file.read_bytes().replace(b"checkpoint 5 ", b"checkpoint 99 ", 1))
    sentence = refusal(file)
    assert "format 99" in sentence and f"reads 4 to {checkpoint_file.FORMAT}" in sentence


class Malicious:
    def __init__(self, victim):
        self.victim = str(victim)

    def __reduce__(self):
        return os.mkdir, (self.victim,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_code_in_a_checkpoint_is_not_run(form, tmp_path):
    victim, file = tmp_path / "executed", tmp_path / "x.pt"
    state = state_of(trained(), counters=Malicious(victim))
    if form == "pickle":
        file.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, file, _use_new_zipfile_serialization=form == "zip")
    content = file.read_bytes()
    file.write_bytes(framed(content))
    for read in (checkpoint_file.load, load_policy):
        assert "is not a fastsac checkpoint" in refusal(file, read)
    assert not victim.exists()
    if form != "pickle":  # the trap works
        torch.load(io.BytesIO(content), weights_only=False)
        assert victim.exists()


def test_every_flipped_bit_is_noticed(tmp_path):
    file = saved(tmp_path)
    whole = file.read_bytes()
    for position in [*range(100), *range(100, len(whole), 37)]:
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        file.write_bytes(damaged)
        sentence = refusal(file, load_policy)
        assert (
            "damaged" in sentence or "not a fastsac checkpoint" in sentence or "format" in sentence
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_a_loaded_policy_acts_as_the_agent_does(name, tmp_path):
    agent = trained(name)
    checkpoint_file.save(tmp_path / "x.pt", state_of(agent))
    policy = load_policy(tmp_path / "x.pt")
    assert (policy.task, policy.obs_dim, policy.action_dim) == ("toy_task", OBS, ACT)
    obs = torch.randn(7, OBS, generator=torch.Generator().manual_seed(1))
    want = agent.act(obs, deterministic=True)
    for batch in (obs, obs.double()):
        assert torch.equal(policy(batch), want) and policy(batch).dtype == torch.float32
    for array in (obs.numpy(), obs.double().numpy(), np.asfortranarray(obs.numpy())):
        action = policy(array)
        assert isinstance(action, np.ndarray) and action.dtype == np.float32
        assert np.array_equal(action, want.numpy())
    one = agent.act(obs[:1], deterministic=True)[0]
    assert policy(obs[0]).shape == (ACT,) and torch.equal(policy(obs[0]), one)
    alone = policy(obs[0].numpy())
    assert isinstance(alone, np.ndarray) and np.array_equal(alone, one.numpy())
    assert policy(obs[:0]).shape == (0, ACT)


@pytest.mark.parametrize("shape", [(OBS + 1,), (3, OBS - 1), (2, 3, OBS), (), (OBS, 3)])
@pytest.mark.parametrize("kind", [torch.zeros, np.zeros])
def test_a_policy_names_the_sizes_it_takes(kind, shape, tmp_path):
    policy = load_policy(saved(tmp_path))
    with pytest.raises(ValueError) as caught:
        policy(kind(shape))
    assert str(caught.value) == (
        f"a policy for toy_task takes observations ({OBS},) or (B, {OBS}), got {shape}"
    )


def _config(**changed):
    fields = dataclasses.asdict(TrainConfig("toy_task", sac=CONFIGS["v2"]))
    fields["sac"] |= changed
    return {"config": json.dumps(fields)}


CONTRADICTIONS = {
    "other observations": {"obs_dim": OBS + 1},
    "other actions": {"action_dim": ACT + 1},
    "size of another type": {"obs_dim": "five"},
    "broken json": {"config": "{"},
    "empty config": {"config": "{}"},
    "config of another type": {"config": 7},
    "wider": _config(hidden_sizes=[16, 8]),
    "shallower": _config(hidden_sizes=[8]),
    "normaliser": _config(normalize_obs=True),
    "out of range": _config(gamma=2.0),
    "not a number": _config(gamma="much"),
    "unknown field": _config(unknown_field=1),
    "no weights": {"agent": {}},
    "weights of another type": {"agent": 3},
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_checkpoint_that_contradicts_its_own_configuration_is_refused(name, tmp_path):
    file = saved(tmp_path, **CONTRADICTIONS[name])
    assert str(file) in refusal(file, load_policy)
