"""The configuration: what it refuses, and that every field can be set and does something."""

import ast
import dataclasses
import inspect
import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import fastsac
from fastsac import SACConfig, TrainConfig, cli
from fastsac.errors import ConfigError
from fastsac.training.presets import PRESETS, TASK_PRESETS, preset_config

SOURCES = Path(__file__).parents[3] / "fastsac"
SAC_FIELDS = [f.name for f in dataclasses.fields(SACConfig)]
TRAIN_FIELDS = [f.name for f in dataclasses.fields(TrainConfig)]

# A value that differs from the default, as the command line writes it and as the field holds it.
FLAGS = {
    "preset": ("cpu", "cpu"),
    "seed": ("7", 7),
    "num_envs": ("3", 3),
    "engine": ("native", "native"),
    "solver": ("fast", "fast"),
    "device": ("cpu", "cpu"),
    "total_steps": ("9000", 9000),
    "max_seconds": ("1.5", 1.5),
    "noise_steps": ("16", 16),
    "start_from": ("zoo:walker_run", "zoo:walker_run"),
    "learning_starts": ("17", 17),
    "batch_size": ("32", 32),
    "updates_per_step": ("5", 5),
    "replay_capacity": ("777", 777),
    "eval_every": ("123", 123),
    "eval_episodes": ("2", 2),
    "eval_backend": ("dm_control", "dm_control"),
    "final_eval_episodes": ("3", 3),
    "checkpoint_every": ("456", 456),
    "keep_checkpoints": ("3", 3),
    "checkpoint_replay": ("False", False),
    "log_seconds": ("0.5", 0.5),
    "wandb": ("", True),
    "profile": ("", True),
    "strict": ("", True),
    "run_dir": ("here", "here"),
    "hidden_sizes": ("64 32 16", (64, 32, 16)),
    "num_critics": ("4", 4),
    "learning_rate": ("0.001", 0.001),
    "gamma": ("0.9", 0.9),
    "tau": ("0.1", 0.1),
    "temperature": ("0.2", 0.2),
    "initial_temperature": ("0.3", 0.3),
    "target_entropy_per_dim": ("-2.5", -2.5),
    "layer_norm": ("", True),
    "critic_reduction": ("mean", "mean"),
    "num_atoms": ("51", 51),
    "value_range": ("-1 5", (-1.0, 5.0)),
    "weight_decay": ("0.01", 0.01),
    "initial_std": ("0.2", 0.2),
    "n_step": ("3", 3),
    "log_std_min": ("-5", -5.0),
    "log_std_max": ("1", 1.0),
    "normalize_obs": ("", True),
    "policy_delay": ("2", 2),
    "precision": ("bf16", "bf16"),
    "compile_updates": ("", True),
}
NEEDS = {"value_range": ("num_atoms",)}  # what is refused without another flag


def flag(field):
    return "--" + field.replace("_", "-")


def parsed(monkeypatch, *args):
    """The configuration that `fastsac train` would train with."""
    seen = []
    training = types.ModuleType("fastsac.training.loop")
    training.train = seen.append
    monkeypatch.setitem(sys.modules, "fastsac.training.loop", training)
    assert cli.main(["train", "cartpole_swingup", *args]) == 0
    return seen[0]


BAD_SAC = [
    *[("hidden_sizes", x) for x in ((), (0,), (64, -1))],
    *[("num_critics", x) for x in (0, -1)],
    *[("learning_rate", x) for x in (0.0, -1e-3, math.inf, math.nan)],
    *[("gamma", x) for x in (1.0, -0.1, 99, math.nan)],
    *[("tau", x) for x in (0.0, 1.1, -0.005, math.nan)],
    *[("num_atoms", x) for x in (0, 1, -5)],
    *[("weight_decay", x) for x in (-0.1, math.inf, math.nan)],
    *[("initial_std", x) for x in (0.0, -1.0, math.inf, math.nan)],
    *[("temperature", x) for x in (-0.1, math.inf, math.nan)],
    *[("initial_temperature", x) for x in (0.0, -1.0, math.inf, math.nan)],
    *[("target_entropy_per_dim", x) for x in (math.inf, -math.inf, math.nan)],
    *[("log_std_min", x) for x in (2.0, 3.0, -math.inf, math.nan)],
    *[("log_std_max", x) for x in (-20.0, -21.0, math.inf, math.nan)],
]
BAD_TRAIN = [
    *[(name, 0) for name in ("num_envs", "total_steps", "batch_size", "replay_capacity")],
    *[(name, 0) for name in ("eval_every", "eval_episodes", "final_eval_episodes")],
    *[(name, -1) for name in ("checkpoint_every", "learning_starts", "seed", "num_envs")],
    ("seed", 2**32),
    *[("updates_per_step", x) for x in (0, -1)],
    *[
        (name, x)
        for name in ("log_seconds", "max_seconds")
        for x in (0.0, -1.0, math.inf, math.nan)
    ],
]


@pytest.mark.parametrize("field, value", BAD_SAC, ids=str)
def test_the_algorithms_sentence_names_its_flag(field, value):
    with pytest.raises(ConfigError) as caught:
        SACConfig(**{field: value})
    assert flag(field) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("ends", [(1.0, 1.0), (2.0, 1.0), (-math.inf, 1.0), (0.0, math.nan)])
def test_the_atoms_range_must_be_one(ends):
    with pytest.raises(ConfigError, match="^--value-range .*got [^\n]*$"):
        SACConfig(num_atoms=11, value_range=ends)


def test_the_atoms_cover_every_return_of_rewards_up_to_one():
    # 1 / (1 - 0.9) = 10, and a tenth of it on either side.
    assert SACConfig(num_atoms=11, gamma=0.9).support == pytest.approx((-1, 11))
    assert SACConfig(num_atoms=11, gamma=0.9, value_range=(-3.0, 4.0)).support == (-3, 4)


@pytest.mark.parametrize("field, value", BAD_TRAIN, ids=str)
def test_the_runs_sentence_names_its_flag(field, value):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(task="x", **{field: value})
    sentence = str(caught.value)
    assert flag(field) in sentence and str(value) in sentence and "\n" not in sentence


@pytest.mark.parametrize(
    "make, flags",
    [
        (lambda: SACConfig(value_range=(0.0, 1.0)), "value-range num-atoms"),
        (lambda: SACConfig(log_std_min=1.0, log_std_max=0.0), "log-std-min log-std-max"),
        (
            lambda: SACConfig(temperature=0.1, target_entropy_per_dim=-2.0),
            "temperature target-entropy-per-dim",
        ),
        (lambda: TrainConfig("x", num_envs=8, replay_capacity=7), "replay-capacity num-envs"),
        (
            lambda: TrainConfig("x", num_envs=64, learning_starts=99, total_steps=100),
            "learning-starts num-envs total-steps",
        ),
        (lambda: TrainConfig("x", n_step=9000, total_steps=9000), "n-step total-steps"),
        (lambda: SACConfig(initial_std=1.5, log_std_max=0.0), "initial-std log-std-max"),
        (lambda: SACConfig(initial_std=0.001, log_std_min=-5.0), "initial-std log-std-min"),
        (lambda: TrainConfig("x", total_steps=5000), "learning-starts total-steps"),
    ],
)
def test_contradictions_name_both_flags(make, flags):
    with pytest.raises(ConfigError) as caught:
        make()
    assert all(f"--{name}" in str(caught.value) for name in flags.split())


@pytest.mark.parametrize(
    "make",
    [
        lambda: SACConfig(gamma=0.0, tau=1.0, temperature=0.0, num_critics=1, hidden_sizes=(1,)),
        lambda: TrainConfig("x", seed=0, learning_starts=0, total_steps=2),
        lambda: TrainConfig("x", seed=2**32 - 1, learning_starts=4999, total_steps=5000),
        lambda: TrainConfig("x", num_envs=8, replay_capacity=8, updates_per_step=1),
    ],
)
def test_the_ends_of_the_ranges_are_accepted(make):
    make()


def test_the_defaults_are_the_papers():
    sac, run = SACConfig(), TrainConfig("x")
    assert (sac.hidden_sizes, sac.num_critics, sac.learning_rate) == ((256, 256), 2, 3e-4)
    assert (sac.gamma, sac.tau, sac.temperature, sac.target_entropy_per_dim) == (
        0.99,
        0.005,
        None,
        -1,
    )
    assert (run.batch_size, run.replay_capacity, run.num_envs) == (256, 1_000_000, 1)
    assert run.updates_per_vector_step == 1
    assert TrainConfig("x", num_envs=16).updates_per_vector_step == 16
    assert TrainConfig("x", num_envs=16, updates_per_step=3).updates_per_vector_step == 3


@pytest.mark.parametrize("config", [SACConfig(), TrainConfig("x")], ids=["sac", "train"])
def test_configurations_are_frozen(config):
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, getattr(config, field.name))
    hash(config)  # no mutable value inside, so a shared default cannot leak


def test_one_instances_override_does_not_leak_into_the_next():
    changed = dataclasses.replace(TrainConfig("x"), sac=SACConfig(gamma=0.5))
    assert changed.sac.gamma == 0.5 and TrainConfig("x").sac == SACConfig()
    assert preset_config("cartpole_swingup", "cpu", num_envs=2).num_envs == 2
    assert preset_config("cartpole_swingup", "cpu").num_envs != 2


@pytest.mark.parametrize("cls", [SACConfig, TrainConfig])
def test_every_field_has_a_type_a_default_and_one_line_of_meaning(cls):
    tree = ast.parse(Path(inspect.getfile(cls)).read_text())
    body = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == cls.__name__).body
    for i, node in enumerate(body):
        if isinstance(node, ast.AnnAssign):
            assert isinstance(node.target, ast.Name)
            assert node.value is not None or node.target.id == "task", node.target.id
            after = body[i + 1]
            assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            assert isinstance(after.value.value, str) and "\n" not in after.value.value


def test_help_lists_every_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "cartpole_swingup", "--help"])
    assert caught.value.code == 0
    words = set(capsys.readouterr().out.replace(",", " ").split())
    fields = {*SAC_FIELDS, *TRAIN_FIELDS} - {"task", "sac"}
    missing = {f for f in fields if not any(flag(f) in word.split("|") for word in words)}
    assert not missing


def test_the_table_of_flags_covers_every_field():
    assert set(FLAGS) == {*SAC_FIELDS, *TRAIN_FIELDS} - {"task", "sac"}


@pytest.mark.parametrize("field", FLAGS)
def test_every_field_is_set_by_its_flag(field, monkeypatch):
    names = (field, *NEEDS.get(field, ()))
    words = [word for name in names for word in (flag(name), *FLAGS[name][0].split())]
    config = parsed(monkeypatch, *words)
    assert config.task == "cartpole_swingup"
    owner, default = (
        (config.sac, SACConfig()) if field in SAC_FIELDS else (config, TrainConfig(config.task))
    )
    defaults = {name: getattr(default, name) for name in names}
    assert all(getattr(owner, name) == FLAGS[name][1] != defaults[name] for name in names)
    if field != "preset":  # nothing else moved
        assert dataclasses.replace(owner, **defaults) == default


def test_flags_win_over_the_preset(monkeypatch):
    config = parsed(monkeypatch, "--num-envs", "5", "--preset", "cpu", "--gamma", "0.9")
    preset = preset_config("cartpole_swingup", "cpu")
    assert config.preset == "cpu" and config.num_envs == 5 != preset.num_envs
    sac = dataclasses.replace(preset.sac, gamma=0.9)
    assert config == dataclasses.replace(preset, num_envs=5, sac=sac)


@pytest.mark.parametrize(
    "args, part",
    [
        (["--gamma", "2"], "--gamma"),
        (["--temperature", "0.1", "--target-entropy-per-dim", "-2"], "--target-entropy-per-dim"),
        (["--num-envs", "0"], "--num-envs"),
        (["--no-such-flag", "1"], "--no-such-flag"),
        (["surplus"], "surplus"),
    ],
)
def test_bad_flags_end_with_2_and_a_sentence(args, part, capsys):
    assert cli.main(["train", "cartpole_swingup", *args]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastsac: ") and part in error and error.count("\n") == 1


def _reads():
    """What is read of something called config, config.sac, or of self in config.py itself."""
    found = set()
    for file in SOURCES.rglob("*.py"):
        tree = ast.parse(file.read_text())
        in_config = file.name == "config.py"
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef) and function.name == "__post_init__":
                function.body.clear()  # validating a field is not using it
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = node.value
                name = owner.attr if isinstance(owner, ast.Attribute) else ""
                name = owner.id if isinstance(owner, ast.Name) else name
                if name in ("config", "_config", "sac") or (in_config and name == "self"):
                    found.add(node.attr)
            elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "config":
                found.add(getattr(node.slice, "value", None))  # of a configuration as a dict
    return found


def test_every_field_is_read_somewhere():
    # The preset is chosen before there is a configuration; the field records it in config.json.
    assert not {*SAC_FIELDS, *TRAIN_FIELDS} - _reads() - {"preset"}


def test_presets_are_known_and_valid():
    names = {f.name for f in dataclasses.fields(TrainConfig)} - {"task", "preset"}
    literal = TrainConfig.__annotations__["preset"].__args__
    assert set(literal) == set(PRESETS)
    for preset, overrides in PRESETS.items():
        assert set(overrides) <= names, preset
        assert preset_config("x", preset).preset == preset
    assert preset_config("x", "seed") == TrainConfig("x")


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match="--preset 'huge'.*seed, cpu, fast"):
        preset_config("x", "huge")


def test_task_presets_name_real_presets_tasks_and_fields():
    names = {f.name for f in dataclasses.fields(TrainConfig)} - {"task", "preset"}
    known = fastsac.tasks()
    for (preset, task), overrides in TASK_PRESETS.items():
        assert preset in PRESETS, (preset, task)
        assert task in known, (preset, task)
        assert set(overrides) <= names, (preset, task)
        config = preset_config(task, preset)
        assert all(getattr(config, name) == value for name, value in overrides.items())
        plain = dataclasses.replace(TrainConfig(task), preset=preset, **PRESETS[preset])
        assert config != plain, "an exception that changes nothing"


@pytest.mark.parametrize(
    "num_envs, preset", [(1, "seed"), (15, "seed"), (16, "cpu"), (1023, "cpu"), (1024, "fast")]
)
def test_the_number_of_worlds_picks_the_preset(num_envs, preset, monkeypatch):
    config = parsed(monkeypatch, "--num-envs", str(num_envs))
    assert config == preset_config("cartpole_swingup", preset, num_envs=num_envs)
    assert config == parsed(monkeypatch, f"--num_envs={num_envs}")
    named = parsed(monkeypatch, "--num-envs", str(num_envs), "--preset", "seed")
    assert named == preset_config("cartpole_swingup", "seed", num_envs=num_envs)


def test_numpys_numbers_are_taken_and_kept_as_pythons():
    config = TrainConfig("x", total_steps=np.int64(9000), sac=SACConfig(gamma=np.float32(0.5)))
    assert type(config.total_steps) is int and config.sac.gamma == 0.5
    assert type(config.sac.gamma) is float
    assert SACConfig(hidden_sizes=(np.int32(8), 8)).hidden_sizes == (8, 8)
    assert SACConfig(layer_norm=np.bool_(True)).layer_norm is True
    with pytest.raises(ConfigError, match="--total-steps must be an integer"):
        TrainConfig("x", total_steps=np.float64(9000.0))
