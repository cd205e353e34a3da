"""Any value in any field: a sentence that names the flag, or a configuration that is sane."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsac import SACConfig, TrainConfig, resume
from fastsac.errors import ConfigError, RunError, UserError
from fastsac.presets import PRESETS, preset_config
from fastsac.run_directory import from_json, recorded_config, to_json


def number(x):
    return type(x) in (int, float) and -3.4e38 <= x <= 3.4e38  # NaN is not between


def count(least):
    return lambda x: type(x) is int and least <= x < 2**63


def one_of(*names):
    return lambda x: type(x) is str and x in names


def positive(x):
    return number(x) and x > 0


def optional(sane):
    return lambda x: x is None or sane(x)


def flag_value(x):
    return type(x) is bool


# What each field may hold by itself, said again and apart from fastsac/config.py.
SANE = {
    "hidden_sizes": lambda x: type(x) is tuple and len(x) > 0 and all(map(count(1), x)),
    "layer_norm": flag_value,
    "num_critics": count(1),
    "critic_reduction": one_of("min", "mean"),
    "num_atoms": optional(count(2)),
    "value_range": optional(
        lambda x: type(x) is tuple and len(x) == 2 and all(map(number, x)) and x[0] < x[1]
    ),
    "learning_rate": positive,
    "weight_decay": lambda x: number(x) and x >= 0,
    "gamma": lambda x: number(x) and 0 <= x < 1,
    "tau": lambda x: number(x) and 0 < x <= 1,
    "temperature": optional(lambda x: number(x) and x >= 0),
    "initial_temperature": positive,
    "target_entropy_per_dim": number,
    "initial_std": optional(positive),
    "log_std_min": number,
    "log_std_max": number,
    "normalize_obs": flag_value,
    "policy_delay": count(1),
    "precision": one_of("float32", "tf32", "bf16"),
    "task": lambda x: type(x) is str,
    "preset": one_of("seed", "cpu", "fast"),
    "seed": lambda x: count(0)(x) and x < 2**32,
    "num_envs": count(1),
    "engine": one_of("auto", "native", "mjx"),
    "solver": one_of("faithful", "fast"),
    "device": optional(lambda x: type(x) is str),
    "total_steps": count(1),
    "max_seconds": optional(positive),
    "learning_starts": count(0),
    "batch_size": count(1),
    "n_step": count(1),
    "updates_per_step": optional(count(1)),
    "replay_capacity": count(1),
    "eval_every": count(1),
    "eval_episodes": count(1),
    "eval_backend": one_of("dm_control", "engine"),
    "final_eval_episodes": count(1),
    "checkpoint_every": count(1),
    "keep_checkpoints": count(1),
    "checkpoint_replay": optional(flag_value),
    "log_seconds": positive,
    "wandb": flag_value,
    "profile": flag_value,
    "run_dir": optional(lambda x: type(x) is str and x != "" and "\0" not in x),
    "sac": lambda x: type(x) is SACConfig,
}
CHOICES = "seed cpu fast auto native mjx faithful engine dm_control min mean float32 tf32 bf16"
SAC = [f.name for f in dataclasses.fields(SACConfig)]
TRAIN = [f.name for f in dataclasses.fields(TrainConfig)]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.integers(),
    st.sampled_from([10**400, -(10**400), 10**5000, 2**63 - 1, 2**63, 2**32]),
    st.floats(0, 1),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([*CHOICES.split(), "", "\0", "x" * 10_000, "\ud800", "1", "nan", "None"]),
    st.sampled_from([1j, b"1", object(), float, {}, set()]),
)
values = st.one_of(
    scalars,
    st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)),
    st.lists(scalars, max_size=3),
    st.lists(scalars, max_size=3).map(tuple),
    st.dictionaries(st.text(max_size=2), scalars, max_size=2),
)


def insane(config):
    """The fields that hold what they must not."""
    fields = vars(config) | (vars(config.sac) if isinstance(config, TrainConfig) else {})
    return {name: value for name, value in fields.items() if not SANE[name](value)}


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
