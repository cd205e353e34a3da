"""What a configuration may hold, said apart from the configurations, and values of every kind."""

import dataclasses

from hypothesis import strategies as st

from fastsac import SACConfig, TrainConfig


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


# What each field may hold by itself, said again and apart from the configurations.
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
    "compile_updates": flag_value,
    "policy_delay": count(1),
    "precision": one_of("float32", "tf32", "bf16"),
    "task": lambda x: type(x) is str,
    "preset": one_of("seed", "cpu", "fast"),
    "seed": lambda x: count(0)(x) and x < 2**32,
    "num_envs": count(1),
    "engine": one_of("auto", "native", "warp", "mjx"),
    "solver": one_of("faithful", "fast"),
    "device": optional(lambda x: type(x) is str),
    "total_steps": count(1),
    "max_seconds": optional(positive),
    "noise_steps": lambda x: count(1)(x) and x <= 1000,
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
    "strict": flag_value,
    "start_from": optional(lambda x: type(x) is str and x != "" and "\0" not in x),
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
