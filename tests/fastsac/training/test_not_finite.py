"""What a run makes of rewards and observations that are no finite numbers."""

import csv
import json
import math

import jax.numpy as jnp
import pytest
import torch

import fastsac
from fastsac.cli import main
from fastsac.envs import registry
from fastsac.envs.outcome import BAD_OBSERVATION, BAD_REWARD, DIVERGED
from fastsac.errors import NotFiniteError
from fastsac.runs.listing import describe, read_metrics, read_result
from fastsac.training.config import EVAL_SEED
from fastsac.training.evaluation import Evaluation, evaluate
from fastsac.training.faults import Faults
from fastsac.training.presets import preset_config

MODEL = """<mujoco>
  <option timestep="0.01" gravity="0 0 0"/>
  <worldbody>
    <body><joint name="x" type="slide" axis="1 0 0"/><geom size="0.1" mass="2"/></body>
  </worldbody>
  <actuator><motor joint="x" ctrlrange="-1 1"/></actuator>
</mujoco>"""
TINY = dict(
    num_envs=3, total_steps=120, learning_starts=60, batch_size=8, replay_capacity=300,
    eval_every=60, eval_episodes=2, final_eval_episodes=3, engine="native", device="cpu",
    sac=fastsac.SACConfig(hidden_sizes=(8,)),
)  # fmt: skip


def register(reward, observe=lambda p: {"x": p.qpos}, **more):
    """A box that starts at x in [0, 1) and whose functions may be no numbers."""

    def place(physics, random):
        physics.data.qpos[0] = random.uniform(0, 1)

    fastsac.register(
        "odd", MODEL, observe, reward, initialize=place, time_limit=0.2, replace=True, **more
    )


def log_of_x(physics):
    return jnp.log(physics.qpos[0] - 2)  # of less than -1: NaN


def sometimes(physics):
    return jnp.where(physics.qpos[0] < 0.3, jnp.inf, 1.0)


@pytest.mark.parametrize("engine", ["native", pytest.param("mjx", marks=pytest.mark.slow), "warp"])
def test_a_fault_says_what_it_is(engine, make_env):
    def observe(physics):
        return {"x": jnp.where(physics.qpos > 0.5, jnp.nan, physics.qpos)}

    register(lambda p: jnp.where(p.qpos[0] < 0, jnp.nan, 1.0), observe)
    env = make_env("odd", 4, engine=engine)
    env.reset(seed=0)
    qpos = torch.tensor([[0.2], [-0.2], [0.7], [1e12]])
    env.set_state({"qpos": qpos, "qvel": torch.zeros(4, 1)})
    _, reward, _, truncated, info = env.step(torch.zeros(4, 1))
    assert info["fault"].tolist() == [0, BAD_REWARD, BAD_OBSERVATION, DIVERGED]
    assert info["invalid"].tolist() == truncated.tolist() == [False, True, True, True]
    assert reward.tolist() == [1, 0, 0, 0]


@pytest.fixture
def make_env():
    made = []

    def build(*args, engine, **kwargs):
        if engine == "warp":
            pytest.importorskip("warp")
        made.append(fastsac.make(*args, engine=engine, **kwargs))
        return made[-1]

    yield build
    for env in made:
        env.close()


def test_the_first_of_each_kind_is_kept_and_all_are_counted():
    faults = Faults(3, torch.device("cpu"))
    steps = [[0, 1, 0], [0, 0, BAD_REWARD], [BAD_REWARD, BAD_OBSERVATION, BAD_REWARD]]
    for number, fault in enumerate(steps):
        faults.add(torch.tensor(fault, dtype=torch.uint8), 3 * number)
    assert faults.counts.tolist() == [1, 3] and faults.first.tolist() == [6 + 1, 3 + 2]
    twin = Faults(3, torch.device("cpu"))
    twin.load_state_dict(faults.state_dict())
    twin.add(torch.full((3,), BAD_REWARD, dtype=torch.uint8), 9)
    assert twin.counts.tolist() == [1, 6] and twin.first.tolist() == [7, 5]
    assert faults.counts.tolist() == [1, 3]


def test_rewards_that_are_all_nan_end_the_run_with_exit_code_3(tmp_path, capsys):
    register(log_of_x)
    config = preset_config("odd", run_dir=str(tmp_path / "run"), **TINY)
    with pytest.raises(NotFiniteError, match="odd: the last 120 rewards are no finite") as error:
        fastsac.train(config)
    assert error.value.exit_code == 3
    words = "warning: odd: reward of world 0 at step 3 is no finite number"
    assert capsys.readouterr().err.count(words) == 1
    (*_, last) = csv.DictReader((tmp_path / "run" / "metrics.csv").open())
    assert last["bad_rewards"] == last["invalid_transitions"] == "120"
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_long_run_of_them_ends_within_two_log_intervals(tmp_path):
    register(log_of_x)
    config = preset_config(
        "odd", run_dir=str(tmp_path / "run"), log_seconds=0.3, **TINY | {"total_steps": 10**7}
    )
    with pytest.raises(NotFiniteError, match="rewards are no finite numbers"):
        fastsac.train(config)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A run whose every third episode or so has a reward of infinity; and what it raised."""
    run = tmp_path_factory.mktemp("mixed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_TASKS", dict(registry._TASKS))
        register(sometimes)
        with pytest.raises(NotFiniteError) as error:
            fastsac.train(preset_config("odd", run_dir=str(run), **TINY | FINAL))
    return run, str(error.value)


FINAL = {"final_eval_episodes": 8, "eval_episodes": 8}


def test_some_of_them_cost_their_transitions_and_the_return(mixed):
    run, sentence = mixed
    assert sentence.startswith("odd has no return: in ") and "of 8 episodes a reward" in sentence
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    logged = [row for row in rows if row["bad_rewards"]][-1]
    assert 0 < int(logged["bad_rewards"]) < 120 and int(logged["bad_observations"]) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["mean"] is result["std"] is None and None in result["returns"]
    assert {x for x in result["returns"] if x is not None} == {10.0}
    assert not (run / "best.pt").exists(), "what has no return is never the best"


def test_what_reads_the_run_has_no_number_and_no_damage(mixed, capsys):
    run, _ = mixed
    assert math.isnan(read_result(run)["mean"])
    curve, steps = read_metrics(run)
    assert steps == 120 and not len(curve["step"])
    row = describe(run)
    assert row["state"] == "finished" and math.isnan(row["eval_return"])
    assert main(["runs", str(run), "--json"]) == 0
    strict = lambda name: pytest.fail(f"{name} is not JSON")  # noqa: E731
    (row,) = json.loads(capsys.readouterr().out, parse_constant=strict)
    assert row["eval_return"] is None
    assert main(["runs", str(run)]) == 0 and " nan " in capsys.readouterr().out
    assert main(["plot", str(run), "-o", str(run / "c.png")]) == 2
    assert "has no evaluation yet" in capsys.readouterr().err
    page = run / "report.html"
    assert main(["report", str(run), "-o", str(page), "--no-video"]) == 0
    assert '<div class="return">nan' in page.read_text()


def test_eval_prints_it_and_ends_with_exit_code_3(mixed, capsys):
    run, _ = mixed
    register(sometimes)
    strict = lambda name: pytest.fail(f"{name} is not JSON")  # noqa: E731
    for backend in ("dm_control", "engine"):
        options = ["--episodes", "8", "--backend", backend]
        assert main(["eval", str(run), *options]) == 3
        out, err = capsys.readouterr()
        assert f"return in {backend}: nan +- nan" in out and "diverged" not in out
        assert "has no return: in " in err
        assert main(["eval", str(run), *options, "--json"]) == 3
        returns = json.loads(capsys.readouterr().out, parse_constant=strict)["returns"]
        assert {x for x in returns if x is not None} == {10.0} and None in returns


def test_an_infinite_return_is_none_and_finite_ones_are_kept():
    register(sometimes)
    policy = lambda obs: torch.zeros(len(obs), 1)  # noqa: E731
    for backend in ("dm_control", "engine"):
        returns = evaluate(policy, "odd", 8, EVAL_SEED, backend).returns
        assert all(math.isnan(x) or x == 10 for x in returns) and len({*map(str, returns)}) == 2
    good = Evaluation("dm_control", 0, (1.0, 2.0))
    good.require_finite("odd")
    assert good.as_dict()["returns"] == [1.0, 2.0] and good.as_dict()["mean"] == 1.5


@pytest.mark.parametrize("field", ["time_limit", "control_timestep"])
@pytest.mark.parametrize("seconds", [math.nan, 0.0, -1.0, -math.inf])
def test_times_that_are_none_are_refused(field, seconds):
    changes = {"time_limit": 1.0, field: seconds}
    with pytest.raises(ValueError, match=f"task odd: {field} must be a positive number, got"):
        fastsac.register("odd", MODEL, lambda p: {"x": p.qpos}, lambda p: p.qpos[0], **changes)


def test_actuators_without_a_range_are_said(caplog):
    register(sometimes)
    assert not caplog.records
    free = MODEL.replace('joint="x" ctrlrange="-1 1"', 'name="push" joint="x"')
    fastsac.register("free", free, lambda p: {"x": p.qpos}, lambda p: p.qpos[0])
    (record,) = caplog.records
    words = "task free: actuators without ctrlrange take actions of [-1, 1] as they are: push"
    assert record.getMessage() == words
