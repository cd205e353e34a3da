"""Any value in any field: a sentence that names the flag, or a configuration that is sane."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsac import SACConfig, TrainConfig, resume
from fastsac.errors import ConfigError, RunError, UserError
from fastsac.training.config import from_json, recorded_config, to_json
from fastsac.training.presets import PRESETS, preset_config
from tests.fastsac.training.fuzzing import SAC, SANE, TRAIN, insane, values


def check_sentence(error, *names):
    sentence = str(error)
    assert sentence and "\n" not in sentence and len(sentence) < 1000 and "Error" not in sentence
    flags = [n if n in ("task", "sac") else "--" + n.replace("_", "-") for n in names]
    assert not flags or any(flag in sentence for flag in flags), sentence


def test_the_tables_cover_every_field():
    assert set(SANE) == {*SAC, *TRAIN}
    assert not insane(TrainConfig("x")) and not insane(preset_config("x", "fast"))


@settings(max_examples=900)
@given(st.sampled_from(sorted(SANE)), values)
def test_one_field(name, value):
    make = SACConfig if name in SAC else TrainConfig
    fields = {"num_atoms": 11} if name == "value_range" else {}
    fields |= {"task": "x"} if make is TrainConfig else {}
    try:
        config = make(**fields | {name: value})
    except ConfigError as error:
        check_sentence(error, name)
        # What is right by itself is refused for what another flag says only.
        assert not SANE[name](value) or str(error).count("--") >= 2, error
    else:
        assert getattr(config, name) is value and SANE[name](value)


@settings(max_examples=400)
@given(st.dictionaries(st.sampled_from(sorted(SANE)), values, min_size=2, max_size=6))
def test_several_fields(changed):
    sac = {k: v for k, v in changed.items() if k in SAC}
    try:
        algorithm = SACConfig(**sac)
        config = TrainConfig(
            **{"task": "x", "sac": algorithm} | {k: v for k, v in changed.items() if k in TRAIN}
        )
    except ConfigError as error:
        check_sentence(error, *changed)
    else:
        assert not insane(config)
        assert from_json(to_json(config)) == config  # so that the run can be resumed


names = st.sampled_from([*TRAIN, "gamma", "no_such_field", ""]).filter(
    lambda n: n not in ("task", "preset")
)


@settings(max_examples=300)
@given(
    st.one_of(st.just("walker_run"), values),
    st.sampled_from([*PRESETS, None, "", 7, ()]),
    st.dictionaries(names, values, max_size=2),
)
def test_presets_with_overrides(task, preset, overrides):
    try:
        config = preset_config(task, preset, **overrides)
    except ConfigError as error:
        check_sentence(error)
    else:
        assert not insane(config) and config.task == task and config.preset == preset


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's directory with a configuration and nothing to go on from."""
    path = tmp_path_factory.mktemp("run")
    (path / "config.json").write_text(to_json(TrainConfig("cartpole_swingup")))
    return path


@settings(max_examples=200)
@given(changes=st.dictionaries(names.filter("run_dir".__ne__), values, min_size=1, max_size=2))
def test_what_a_resumed_run_may_change(run, changes):
    # With good changes it ends at the checkpoint that is not there.
    with pytest.raises(UserError) as caught:
        resume(run, **changes)
    check_sentence(caught.value)
    assert sorted(p.name for p in run.iterdir()) in (["config.json"], ["config.json", "lock"])


def mutated(draw, text):
    """JSON of other fields and values, or no JSON any more."""
    fields = json.loads(text)
    owner = draw(st.sampled_from([fields, fields["sac"]]))
    owner[draw(st.sampled_from([*owner, "surplus"]))] = draw(json_values)
    if draw(st.booleans()):
        del owner[draw(st.sampled_from([*owner]))]
    text = json.dumps(fields)
    if draw(st.booleans()):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 30)))
        text = (
            text[:start]
            + draw(st.sampled_from(["", "null", "[" * 9, "1e999", "\0", '"', "{}"]))
            + text[end:]
        )
    return text


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda some: st.one_of(
        st.lists(some, max_size=3), st.dictionaries(st.text(max_size=3), some, max_size=2)
    ),
    max_leaves=4,
)
TEXT = to_json(preset_config("cartpole_swingup", "fast"))


@settings(max_examples=400)
@given(data=st.data())
def test_a_damaged_configuration_file(tmp_path_factory, data):
    text = mutated(data.draw, TEXT)
    folder = tmp_path_factory.getbasetemp()
    (folder / "config.json").write_text(text)
    try:
        config = recorded_config(folder)
    except RunError as error:
        assert "config.json is damaged" in str(error) and "\n" not in str(error)
    else:
        assert not insane(config)


@pytest.mark.parametrize("text", ["", "null", "[]", "7", '"x"', "[" * 100_000, '{"a":' * 100_000])
def test_json_that_is_no_configuration(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError) as caught:
        recorded_config(tmp_path)
    assert "config.json is damaged" in str(caught.value) and "\n" not in str(caught.value)
