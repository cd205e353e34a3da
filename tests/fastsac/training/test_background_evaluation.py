"""Evaluation beside the training: the same figures as in line, errors and the end of a run."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fastsac import SAC, SACConfig
from fastsac.envs import EngineUnavailable
from fastsac.learner.policy import Policy
from fastsac.training import run
from fastsac.training.background_evaluation import BackgroundEvaluator
from fastsac.training.config import EVAL_SEED
from fastsac.training.evaluation import evaluate
from fastsac.training.presets import preset_config

TASK, OBS, ACT = "cartpole_balance", 5, 1


def agent(seed=0):
    config = SACConfig(hidden_sizes=(8,), normalize_obs=True, layer_norm=True)
    return SAC(OBS, ACT, config, seed=seed)


@pytest.fixture
def evaluator():
    made = BackgroundEvaluator(TASK, 2, "engine")
    yield made
    made.close()


def test_a_snapshot_is_evaluated_as_in_line_again_and_again(evaluator):
    for seed in (0, 1):
        learner = agent(seed)
        policy = Policy.snapshot(learner, TASK)
        want = evaluate(policy, TASK, 2, EVAL_SEED, "engine")
        evaluator.start(policy, {"step": seed})
        learner.actor_flat.fill_(torch.nan)  # the snapshot is the evaluator's own
        _, counters, result = evaluator.take(wait=True)
        assert counters == {"step": seed} and result == want and result.mean > 0
        assert evaluator.take(wait=True) is None


def test_it_takes_one_thread_and_leaves_all_others_their_own():
    threads, own = [], torch.get_num_threads()

    def acts(obs):
        threads.append(torch.get_num_threads())
        return torch.zeros(len(obs), ACT)

    torch.set_num_threads(3)
    evaluator = BackgroundEvaluator(TASK, 2, "engine")
    try:
        evaluator.start(acts, {})
        evaluator.take(wait=True)
        assert set(threads) == {1} and torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 3
    finally:
        evaluator.close()
        torch.set_num_threads(own)


def test_a_snapshot_acts_as_the_learner_did():
    learner = agent()
    learner.observe(3 + torch.randn(64, OBS))
    obs = torch.randn(7, OBS)
    want = learner.act(obs, deterministic=True)
    policy = Policy.snapshot(learner, TASK)
    learner.actor_flat.zero_()
    learner.observe(100 * torch.ones(64, OBS))
    assert torch.equal(policy(obs), want) and want.any()


def test_the_trainer_does_not_wait_and_an_error_reaches_it(evaluator):
    go = threading.Event()

    def fails(obs):
        go.wait(60)
        raise ArithmeticError("in the background")

    evaluator.start(fails, {})
    assert evaluator.take(wait=False) is None
    go.set()
    with pytest.raises(ArithmeticError, match="in the background"):
        evaluator.take(wait=True)


def test_closing_ends_an_evaluation_under_way():
    evaluator = BackgroundEvaluator(TASK, 1, "dm_control")
    asked = threading.Event()

    def slow(obs):
        asked.set()
        time.sleep(0.05)  # 1000 steps of it: 50 s
        return torch.zeros(len(obs), ACT)

    evaluator.start(slow, {})
    assert asked.wait(60)
    start = time.monotonic()
    evaluator.close()
    assert time.monotonic() - start < 20
    assert not [t for t in threading.enumerate() if t.name.startswith("evaluation")]


def test_a_native_engine_that_cannot_evaluate_is_said_at_the_start(monkeypatch, tmp_path):
    """Before anything is made, or a run that goes on is changed."""

    def fails():
        raise EngineUnavailable("JAX_PLATFORMS leaves the CPU out")

    monkeypatch.setattr(run, "require_jax_cpu", fails)
    with pytest.raises(EngineUnavailable):
        run.TrainingRun(preset_config("cartpole_balance", run_dir=str(tmp_path / "run")))
    assert not list(tmp_path.iterdir())
