"""The number of threads that a CPU's updates take."""

import dataclasses
import subprocess
import sys
import time

import pytest
import torch

import fastsac
from fastsac import SAC, SACConfig
from fastsac.learner.flat_weights import cpu_multiplies_bf16
from fastsac.learner.replay import ReplayBuffer
from fastsac.training import learner_threads
from fastsac.training.learner_threads import LearnerThreads
from fastsac.training.presets import preset_config

CPU = torch.device("cpu")


@pytest.fixture
def four(monkeypatch):
    """torch with four threads, and a clock that goes only as the test says."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    now = [100.0]
    monkeypatch.setattr(learner_threads.time, "monotonic", lambda: now[0])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield now
    torch.set_num_threads(before)


def run(threads, now, seconds, blocks):
    """Does blocks of so many seconds each by number of threads; returns the numbers used."""
    used = []
    for _ in range(blocks):
        with threads.timed():
            used.append(torch.get_num_threads())
            now[0] += seconds[used[-1]]
    return used


def test_the_fastest_number_is_found_and_left_again(four):
    threads = LearnerThreads(CPU)
    busy, idle = {1: 0.1, 2: 0.2, 4: 1.6}, {1: 0.1, 2: 0.06, 4: 0.04}
    assert run(threads, four, {4: 30.0}, 2) == [4] * 2  # they may compile
    assert run(threads, four, busy, 6) == [4] * 3 + [2] * 3
    assert run(threads, four, busy, 7) == [2] * 3 + [1] * 3 + [4]  # one of 4 shows it is slow
    assert run(threads, four, busy, 6) == [1] * 3 + [2] * 3 and threads.count == 1
    # Until the 5 s from one trial to the next are over.
    assert run(threads, four, busy, 49) == [1] * 49
    run(threads, four, idle, 200)
    assert threads.count == 4
    threads.close()
    assert torch.get_num_threads() == 4


def test_trials_take_a_small_share(four):
    threads = LearnerThreads(CPU)
    seconds = {1: 0.01, 2: 5.0, 4: 50.0}
    run(threads, four, seconds, 100)
    assert threads.count == 1
    began = four[0]
    used = run(threads, four, seconds, 100_000)
    assert set(used) == {1, 2} and four[0] - began < 1.04 * len(used) * 0.01


def test_blocks_that_alternate_are_compared_by_whole_cycles(four):
    """As with a delayed policy, whose turn is every other vector step's."""
    threads = LearnerThreads(CPU, cycle=2)
    for number in range(200):
        dear = 2 if number % 2 else 1
        run(threads, four, {n: dear * s for n, s in {1: 0.15, 2: 0.1, 4: 0.12}.items()}, 1)
    assert threads.count == 2


@pytest.mark.parametrize("why", ["a GPU", "OMP_NUM_THREADS", "one thread"])
def test_where_the_number_is_given_it_stays(why, four, monkeypatch):
    if why == "OMP_NUM_THREADS":
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
    torch.set_num_threads(1 if why == "one thread" else 4)
    expected = torch.get_num_threads()
    threads = LearnerThreads(torch.device("cuda") if why == "a GPU" else CPU)
    assert run(threads, four, {1: 1.0, 4: 9.0}, 50) == [expected] * 50


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("preset", ["seed", "cpu"])
def test_an_update_is_the_same_with_any_number(preset, precision):
    """Whole updates: products of matrices, sums over a batch, the optimizers."""
    if precision == "bf16" and not cpu_multiplies_bf16():
        pytest.skip("this CPU multiplies no bf16")
    sac = preset_config("cheetah_run", preset).sac
    sac = dataclasses.replace(sac, hidden_sizes=(256, 256), precision=precision)
    weights, before = [], torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        agent, replay = SAC(17, 6, sac), ReplayBuffer(1000, 17, 6)
        g = torch.Generator().manual_seed(1)
        obs, next_obs = torch.randn(2, 1000, 17, generator=g)
        action = torch.rand(1000, 6, generator=g) * 2 - 1
        replay.add(obs, action, torch.rand(1000, generator=g), torch.zeros(1000), next_obs)
        agent.observe(obs)
        agent.learn(replay, 256, 20)
        weights.append((agent.actor_flat, agent.critics_flat, agent.target_flat))
    torch.set_num_threads(before)
    for other in weights[1:]:
        assert all(map(torch.equal, weights[0], other))


BUSY = "while True: pass"


@pytest.mark.slow
def test_a_training_beside_two_busy_programs_keeps_a_third_of_its_speed(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)

    def seconds(name):
        sac = SACConfig(hidden_sizes=(256, 256))
        config = preset_config(
            *("cheetah_run", "cpu"), run_dir=str(tmp_path / name), total_steps=17_000,
            learning_starts=1_000, final_eval_episodes=1, eval_every=10**9, sac=sac,
        )  # fmt: skip
        start = time.monotonic()
        fastsac.train(config)
        return time.monotonic() - start

    idle = seconds("idle")
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(2)]
    try:
        beside = seconds("beside")
    finally:
        for other in others:
            other.kill()
            other.wait()
        torch.set_num_threads(before)
    assert beside < 3 * idle
