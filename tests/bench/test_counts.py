"""What an update and a step cost, in counts: the same on every machine, unlike seconds.

A change that needs fewer lowers the numbers here; one that needs more says why.
"""

import collections

import jax
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fastsac
from fastsac.learner.replay import row_bytes
from fastsac.training.interruption import StopSignals
from fastsac.training.loop import train_loop
from fastsac.training.presets import preset_config
from fastsac.training.state import TrainingState

OBS, ACT = 17, 6


class Operations(TorchDispatchMode):
    """Counts torch's operations, views included: what Python and dispatch are paid for."""

    def __init__(self):
        super().__init__()
        self.count = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count[function._schema.name] += 1
        return function(*args, **(kwargs or {}))


def filled_replay():
    generator = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    replay = fastsac.ReplayBuffer(1000, OBS, ACT)
    replay.add(rand(500, OBS), rand(500, ACT), rand(500), torch.zeros(500), rand(500, OBS))
    return replay


@pytest.mark.parametrize("preset, most", [("seed", 206), ("cpu", 206)])
def test_operations_an_update(preset, most):
    agent = fastsac.SAC(OBS, ACT, preset_config("cheetah_run", preset).sac)
    replay = filled_replay()
    agent.learn(replay, 64, 4)
    with Operations() as operations:
        agent.learn(replay, 64, 4)
    assert sum(operations.count.values()) / 4 <= most, operations.count.most_common()


def test_bytes_a_transition():
    """Each number of a transition once in float32, and four beside: humanoid's 636 bytes."""
    assert row_bytes(67, 21) == 4 * (2 * 67 + 21 + 4) == 636
    replay = filled_replay()
    with Operations() as operations:
        replay.add(*(torch.ones(5, n) for n in (OBS, ACT)), *torch.ones(2, 5), torch.ones(5, OBS))
    written = [k for k in operations.count if k.startswith("aten::index")]
    assert written == ["aten::index_copy_"] and operations.count["aten::cat"] == 1


def test_nothing_compiles_after_the_first_step():
    compiled = []
    listen = lambda event, seconds, **_: compiled.append(event)  # noqa: E731
    env = fastsac.make("cartpole_swingup", num_envs=8, engine="native")
    env.reset(options={"spread_clocks": True})
    action = torch.zeros(8, 1)
    env.step(action)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        ends = sum(int(env.step(action)[3].sum()) for _ in range(260))  # two resets among them
        assert ends == 2 and not [e for e in compiled if "compile" in e]
        jax.jit(lambda x: x + 41)(1.0)
        assert [e for e in compiled if "compile" in e], "a compilation would be noticed"
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    env.close()


class Steps:
    """A run of a few vector steps without updates, which notes the operations after each."""

    def __init__(self, state, operations):
        self.state, self.operations, self.after = state, operations, []

    @property
    def finished(self):
        return len(self.after) == 8

    def learn(self):
        pass

    def after_step(self):
        self.after.append(sum(self.operations.count.values()))


def test_operations_a_vector_step():
    """Of the loop beside the updates: acting, n-step returns, replay, episode sums, faults."""
    config = preset_config("cheetah_run", "cpu", num_envs=4, learning_starts=0)
    state = TrainingState(config)
    state.start()
    with Operations() as operations, StopSignals() as signals:
        run = Steps(state, operations)
        train_loop(config, run, signals)
    state.close()
    assert run.after[-1] - run.after[-2] <= 141, operations.count.most_common()
