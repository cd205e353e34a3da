"""Sweeps' specifications: what they mean, and what is refused before Ray starts."""

import dataclasses
import sys

import pytest

from fastsac.cli import main
from fastsac.sweep.spec import RUN_INDEX, Asha, Tried
from fastsac.sweep.spec_file import parsed_spec, read_spec

WHOLE = """
tasks: [cartpole_swingup, cheetah_run]
seeds: [3, 5]
flags:
  preset: cpu
  learning-rate: {loguniform: [1e-4, 3e-3]}
  hidden-sizes: {choice: [[256, 256], [512, 512]]}
  policy_delay: {randint: [1, 4]}
  layer-norm: true
  temperature: null
search: optuna
samples: 20
asha: {grace: 20_000, reduction: 3}
resources: {cpu: 2, gpu: 0.25}
"""
LEAST = "tasks: [cartpole_balance]\n"


def written(tmp_path, text, name="sweep.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_specification_means_what_it_says(tmp_path):
    spec = read_spec(written(tmp_path, WHOLE))
    assert spec.runs == [
        ("cartpole_swingup", 3),
        ("cartpole_swingup", 5),
        ("cheetah_run", 3),
        ("cheetah_run", 5),
    ]
    assert spec.tried == {
        "learning_rate": Tried("loguniform", (1e-4, 3e-3)),
        "hidden_sizes": Tried("choice", ((256, 256), (512, 512))),
        "policy_delay": Tried("randint", (1, 4)),
    }
    assert (spec.search, spec.samples, spec.settings) == ("optuna", 20, 20)
    assert spec.asha == Asha(20_000, 3) and (spec.cpu, spec.gpu) == (2, 0.25)


def test_a_trial_is_a_run_of_fastsac_train(tmp_path):
    spec = read_spec(written(tmp_path, WHOLE))
    # As Tune has it once it was saved and loaded: lists.
    trial = {"learning_rate": 5e-4, "hidden_sizes": [512, 512], "policy_delay": 3, RUN_INDEX: 2}
    task, seed, setting = spec.of_trial(trial)
    assert (task, seed) == ("cheetah_run", 3)
    config = spec.config(task, seed, setting, run_dir="here")
    assert (config.task, config.seed, config.preset) == ("cheetah_run", 3, "cpu")
    assert (config.num_envs, config.total_steps, config.run_dir) == (64, 600_000, "here")
    assert (config.sac.learning_rate, config.sac.policy_delay) == (5e-4, 3)
    assert config.sac.hidden_sizes == (512, 512) and config.sac.num_atoms == 51
    assert spec.run_dir(tmp_path, trial, "ab_1") == tmp_path / "runs" / "cheetah_run-3-ab_1"


def test_a_task_keeps_its_own_part_of_a_preset(tmp_path):
    spec = read_spec(
        written(tmp_path, "tasks: [cartpole_swingup, lqr_lqr_2_1]\nflags: {num-envs: 32}")
    )
    swingup, lqr = (spec.config(task, 0, {}) for task in spec.tasks)
    assert swingup.preset == lqr.preset == "cpu"
    assert (swingup.total_steps, lqr.total_steps) == (150_000, 600_000)
    assert (swingup.sac.num_atoms, lqr.sac.num_atoms) == (51, None)


def test_the_least_specification_is_one_run_of_the_paper_setting(tmp_path):
    spec = read_spec(written(tmp_path, LEAST))
    assert spec.runs == [("cartpole_balance", 0)] and spec.settings == 1 and spec.asha is None
    assert spec.config("cartpole_balance", 0, {}).preset == "seed"


def test_grids_multiply(tmp_path):
    flags = (
        "flags: {tau: {grid: [0.01, 2e-2]}, n-step: {grid: [1, 2, 3]}, gamma: {uniform: [0, 0.9]}}"
    )
    spec = read_spec(written(tmp_path, f"{LEAST}{flags}\nsamples: 4"))
    assert spec.settings == 24 and len(list(spec.edges("cartpole_balance"))) == 1 + 1 + 2 + 1


def test_python_may_compute_it(tmp_path):
    grid = "{'grid': [10.0**-k for k in (2, 3)]}"
    text = f"SPEC = {{'tasks': 'all', 'seeds': 5, 'flags': {{'tau': {grid}}}}}"
    spec = read_spec(written(tmp_path, text, "sweep.py"))
    assert len(spec.tasks) == 51 and len(spec.runs) == 255 and spec.settings == 2
    same = parsed_spec(
        {
            "tasks": list(spec.tasks),
            "seeds": (0, 1, 2, 3, 4),
            "flags": {"tau": {"grid": (1e-2, 1e-3)}},
        }
    )
    assert dataclasses.asdict(same) == dataclasses.asdict(spec)


def test_a_task_of_a_file_is_found_from_anywhere(tmp_path, monkeypatch):
    from tests.test_readme import TASK_FILE

    (tmp_path / "hang.py").write_text(TASK_FILE)
    monkeypatch.chdir(tmp_path)
    spec = read_spec(written(tmp_path, "tasks: hang.py"))
    assert spec.tasks == (str(tmp_path / "hang.py"),)
    assert spec.run_dir(tmp_path, {RUN_INDEX: 0}, "x").name == "hang-0-x"


FLAGS = LEAST + "flags: "
REFUSED = [
    ("", "it is empty"),
    ("tasks: [", "is not YAML"),
    ("- cartpole_balance", "it must be keys with values"),
    ("task: cartpole_balance", "unknown key 'task'; there are tasks, seeds"),
    ("seeds: 3", "tasks must be a list of names, or all; got None"),
    ("tasks: []", "tasks must be a list of names"),
    ("tasks: [1]", "tasks must be a list of names"),
    ("tasks: [cartpole_balence]", "did you mean cartpole_balance"),
    ("tasks: [cartpole_balance, cartpole_balance]", "tasks must be different"),
    (LEAST + "seeds: 0", "seeds must be a number of them or a list, got 0"),
    (LEAST + "seeds: true", "seeds must be a number of them"),
    (LEAST + "seeds: [1, 1]", "seeds must be different"),
    (LEAST + "seeds: [0, -1]", "--seed must be at least 0, got -1"),
    (LEAST + "seeds: [0, x]", "--seed must be an integer below 2**63, got 'x'"),
    (FLAGS + "3", "flags must be names with values"),
    (FLAGS + "{learning-rat: 1}", "no flag 'learning-rat'; did you mean learning-rate?"),
    (FLAGS + "{sac: 1}", "no flag 'sac'"),
    (FLAGS + "{seed: 1}", "flags has seed, which each run gets of its own"),
    (FLAGS + "{run-dir: x}", "flags has run-dir"),
    (FLAGS + "{tau: x}", "--tau must be a finite number (of float32), got 'x'"),
    (FLAGS + "{preset: slow}", "unknown --preset 'slow'; there are seed, cpu, fast"),
    (FLAGS + "{num-envs: many}", "--num-envs must be an integer"),
    (FLAGS + "{total-steps: 100}", "--learning-starts 5000 leaves nothing to learn"),
    (FLAGS + "{tau: {grid: []}}", "tau's grid is empty"),
    (FLAGS + "{tau: {grid: 3}}", "tau must be a value or one of grid, choice"),
    (FLAGS + "{tau: {normal: [0, 1]}}", "tau must be a value or one of grid, choice"),
    (FLAGS + "{tau: {grid: [0.1], choice: [0.1]}}", "tau must be a value or one of"),
    (FLAGS + "{tau: {grid: [0.1, 0.1]}}", "tau's values must be different"),
    (FLAGS + "{tau: {grid: [0.1, {a: 1}]}}", "--tau must be a finite number"),
    (FLAGS + "{tau: {grid: [0.1, 7]}}", "--tau must be"),
    (FLAGS + "{tau: {uniform: [0.1, 7]}}", "--tau must be"),
    (FLAGS + "{tau: {uniform: [0.2, 0.1]}}", "tau's uniform must be two numbers, the lower first"),
    (FLAGS + "{tau: {loguniform: [0, 0.1]}}", "tau's loguniform begins above 0"),
    (FLAGS + "{n-step: {randint: [1, 2.5]}}", "n-step's randint must be two integers"),
    (FLAGS + "{n-step: {uniform: [1, 2.5]}}", "--n-step must be an integer"),
    (LEAST + "samples: 4", "nothing is drawn"),
    (LEAST + "search: optuna", "nothing is drawn"),
    (LEAST + "search: grid", "search must be one of random, optuna, got 'grid'"),
    (FLAGS + "{tau: {choice: [0.1]}}\nsamples: 0", "samples must be an integer from 1 on"),
    (
        FLAGS + "{tau: {choice: [0.1]}, n-step: {grid: [1, 2]}}\nsearch: optuna",
        "optuna takes no grid: give n_step as a choice",
    ),
    (LEAST + "asha: true", "asha must be keys with values"),
    (LEAST + "asha: {reduction: 2}", "asha lacks grace"),
    (LEAST + "asha: {grace: 0}", "asha's grace must be an integer from 1 on"),
    (LEAST + "asha: {grace: 9, reduction: 1}", "asha's reduction must be a number above 1"),
    (LEAST + "asha: {grace: 9, max: 1}", "asha has the unknown key 'max'"),
    (
        FLAGS + "{total-steps: 9000}\nasha: {grace: 100}",
        "asha needs an evaluation before a run's end, and --eval-every 10000 leaves none in "
        "cartpole_balance's --total-steps 9000",
    ),
    (
        FLAGS + "{total-steps: {grid: [20000, 8000]}, eval-every: 100}\nasha: {grace: 9000}",
        "asha's grace of 9000 steps leaves none of cartpole_balance's --total-steps 8000",
    ),
    (LEAST + "resources: {cpu: 0}", "cpu must be a number above 0"),
    (LEAST + "resources: {gpu: 2}", "gpu must be a number from 0 to 1, since a run takes one"),
    (LEAST + "resources: {tpu: 1}", "resources has the unknown key 'tpu'"),
]


@pytest.mark.parametrize(("text", "words"), REFUSED, ids=range(len(REFUSED)))
def test_bad_specifications_are_one_sentence_and_start_nothing(
    text, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it would fail
    written(tmp_path, text)
    assert main(["sweep", "sweep.yaml"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("fastsac: sweep.yaml"), lines
    assert words in lines[0], lines
    assert [p.name for p in tmp_path.iterdir()] == ["sweep.yaml"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SPECS = {}", "defines no SPEC"),
        ("SPEC = {'tasks': undefined}", "NameError: name 'undefined' is not defined"),
        ("SPEC = [", "SyntaxError"),
        ("SPEC = 3", "it must be keys with values, got 3"),
    ],
)
def test_bad_python_is_one_sentence(text, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, text, "sweep.py")
    assert main(["sweep", "sweep.py"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and words in lines[0] and "sweep.py" in lines[0], lines


@pytest.mark.parametrize("asked", ["cpu: 4096", "gpu: 0.25"])
def test_what_this_machine_lacks_is_not_waited_for(asked, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    written(tmp_path, LEAST + f"resources: {{{asked}}}")
    assert main(["sweep", "sweep.yaml"]) == 2
    assert f"a run asks for {asked}, and this machine has" in capsys.readouterr().err


def test_what_is_missing_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "none.yaml"]) == 2 and main(["sweep"]) == 2
    written(tmp_path, LEAST)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", "sweep.yaml"]) == 2
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert main(["sweep", "sweep.yaml"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "fastsac: there is no file none.yaml",
        "fastsac: sweep: the following arguments are required: SPEC",
        "fastsac: sweeps need ray: pip install 'fastsac[sweep]'",
        "fastsac: sweeps need Ray and PyYAML: pip install 'fastsac[sweep]'",
    ]
