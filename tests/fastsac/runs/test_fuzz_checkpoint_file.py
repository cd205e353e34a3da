"""Any bytes as a checkpoint, and any content under a right checksum: one sentence, or it loads."""

import copy
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastsac
from fastsac import SACConfig, load_policy, resume
from fastsac.errors import CheckpointError, RunError
from fastsac.runs import checkpoint_file
from fastsac.training.presets import preset_config
from fastsac.training.run import TrainingRun

TINY = dict(num_envs=2, total_steps=40, learning_starts=10, batch_size=4, replay_capacity=50)
TINY |= dict(updates_per_step=1, n_step=2, final_eval_episodes=1, eval_every=10**6)


class Loaded(Exception):
    """A run that would go on from a checkpoint."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's directory as an interruption leaves it."""
    path = tmp_path_factory.mktemp("fuzz") / "run"
    sac = SACConfig(hidden_sizes=(4,), normalize_obs=True)
    with TrainingRun(preset_config("cartpole_balance", run_dir=str(path), sac=sac, **TINY)) as run:
        run.save_last(None)
    return path


@pytest.fixture(scope="module")
def goes_on(run):
    """Resumes a copy of the run with another checkpoint; raises Loaded where it would train."""

    def loaded(*_):
        raise Loaded

    def call(content):
        copied = run.with_name("copy")
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(run, copied)
        file = checkpoint_file.files_of(copied)[0]
        file.write_bytes(content) if isinstance(content, bytes) else checkpoint_file.save(
            file, content
        )
        resume(copied, total_steps=60)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastsac.training.loop.train_loop", loaded)
        yield call


def refused(read, *arguments):
    """Whether it is refused, with a sentence."""
    try:
        read(*arguments)
    except (CheckpointError, RunError) as error:
        text = str(error)
        assert text and "\n" not in text and len(text) < 2000, text
        return True
    except Loaded:
        pass
    return False


@st.composite
def edits(draw):
    """A function of bytes."""
    kind = draw(st.sampled_from(["flip", "cut", "insert", "swap", "zero", "empty"]))
    at, to = draw(st.floats(0, 1)), draw(st.floats(0, 1))
    near, extra = draw(st.booleans()), draw(st.binary(min_size=1, max_size=9))

    def edit(data):
        i, j = sorted(int(x * min(120 if near else len(data), len(data) - 1)) for x in (at, to))
        return {
            "flip": data[:i] + bytes([data[i] ^ (extra[0] or 1)]) + data[i + 1 :],
            "cut": data[:i],
            "insert": data[:i] + extra + data[i:],
            "swap": data[:i] + data[j : j + 1] + data[i + 1 : j] + data[i : i + 1] + data[j + 1 :],
            "zero": data[:i] + bytes(j - i) + data[j:],
            "empty": extra[:-1],
        }[kind]

    return edit


@settings(max_examples=400)
@given(edit=st.lists(edits(), min_size=1, max_size=2))
def test_bytes(run, tmp_path_factory, edit):
    whole = data = checkpoint_file.files_of(run)[0].read_bytes()
    for one in edit:
        data = one(data or b"\0")
    file = tmp_path_factory.getbasetemp() / "x.pt"
    file.write_bytes(data)
    for read in (checkpoint_file.load, load_policy):
        assert refused(read, file) == (data != whole)


junk = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 9), st.floats(), st.text(max_size=4),
    st.sampled_from([[], {}, (), 10**30, 2**62, -1]), st.builds(lambda: {"a": [1, {"b": ()}]}),
    st.builds(torch.zeros, st.lists(st.integers(0, 3), max_size=2)),
    st.builds(lambda: torch.ones(3, dtype=torch.complex64)),
)  # fmt: skip


def paths(tree, before=()):
    """The ways to all that is in nested dicts and sequences."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield (*before, key)
        if isinstance(value, dict | list | tuple):
            yield from paths(value, (*before, key))


def changed(tree, path, change):
    """A copy in which what lies at the path is another, or is missing."""
    key, *rest = path
    inner = change(tree[key]) if not rest else [changed(tree[key], rest, change)]
    if isinstance(tree, dict):
        return {k: v for k, v in tree.items() if k != key} | dict.fromkeys(
            [key][: len(inner)], *inner
        )
    return type(tree)([*tree[:key], *inner, *tree[key + 1 :]])


def change_of(draw):
    value = draw(junk)
    changes = [lambda old: [], lambda old: [value], lambda old: [[old]], lambda old: [{"a": old}]]
    # The same in another shape.
    changes += [lambda old: [old.unsqueeze(0) if isinstance(old, torch.Tensor) else value]]
    changes += [lambda old: [old.ravel()[1:] if isinstance(old, torch.Tensor) else value]]
    return draw(st.sampled_from(changes))


@settings(max_examples=60)
@given(data=st.data())
def test_content(run, goes_on, tmp_path_factory, data):
    state = checkpoint_file.load(run)
    path = data.draw(st.sampled_from([*paths(state)]))
    state = changed(state, path, change_of(data.draw))
    file = tmp_path_factory.getbasetemp() / "x.pt"
    checkpoint_file.save(file, state)
    refused(checkpoint_file.load, file)
    refused(load_policy, file)
    if data.draw(st.integers(0, 9)) == 0:  # half a second each
        refused(goes_on, state)


def test_the_checkpoint_itself_is_taken(run, goes_on):
    assert not refused(goes_on, checkpoint_file.load(run)) and not refused(load_policy, run)
    assert fastsac.load_policy(run).task == "cartpole_balance" and copy.copy(run) == run


@pytest.mark.parametrize("path", ["x" * 300, "a\0b", "", "/dev/null", "/dev/full"])
def test_paths(path):
    assert all(refused(read, path) for read in (load_policy, checkpoint_file.load, resume))
