"""The peers' adapters: each sets its package up for real, and its work is what it is named."""

import importlib
import os
import signal
import sys

import numpy as np
import pytest
import torch
from dm_control import suite

from fastsac.bench import learner, peers
from fastsac.bench.harness import Unavailable
from fastsac.bench.peers import plain_sac

ACT = learner.ACTION_DIM


def kept(monkeypatch, adapter, name):
    """The instances that an adapter makes of a class from now on."""
    made = []

    class Kept(getattr(adapter, name)):
        def __init__(self, *args, **named):
            super().__init__(*args, **named)
            made.append(self)

    monkeypatch.setattr(adapter, name, Kept)
    return made


# One world of dm_control.


@pytest.mark.parametrize("domain, name", [("cheetah", "run"), ("quadruped", "walk")])
def test_a_world_is_dm_control_s_own(domain, name):
    pytest.importorskip("shimmy")
    from fastsac.bench.peers import dm_control_env

    env = dm_control_env.maker(f"{domain}_{name}", seed=3)()
    theirs = suite.load(domain, name, task_kwargs={"random": 3})
    obs, _ = env.reset()
    step = theirs.reset()
    low, high = theirs.action_spec().minimum, theirs.action_spec().maximum  # not all -1 and 1
    actions = np.random.default_rng(0).uniform(-1, 1, (20, len(low)))
    for action in actions:
        # Gymnasium orders the parts by their names.
        expected = np.concatenate([np.ravel(step.observation[k]) for k in sorted(step.observation)])
        assert obs.dtype == np.float32 and env.observation_space.contains(obs)
        # Of the rounding where actions are scaled, contacts make more.
        np.testing.assert_allclose(obs, expected, rtol=1e-5, atol=1e-5)
        obs, reward, terminated, truncated, _ = env.step(action)
        step = theirs.step(low + (action + 1) / 2 * (high - low))
        assert reward == pytest.approx(step.reward, rel=1e-5, abs=1e-7)
        assert not terminated and not truncated
    env.close()


def test_a_world_reset_with_a_seed_is_dm_control_s_of_that_seed():
    pytest.importorskip("shimmy")
    from fastsac.bench.peers import dm_control_env

    env = dm_control_env.maker("cheetah_run")()
    obs, _ = env.reset(seed=5)
    step = suite.load("cheetah", "run", task_kwargs={"random": 5}).reset()
    assert obs.tolist() == np.concatenate([*step.observation.values()]).astype("f4").tolist()
    assert obs.tolist() != env.reset()[0].tolist()


def test_the_time_limit_truncates_and_terminates_nothing():
    pytest.importorskip("shimmy")
    from fastsac.bench.peers import dm_control_env

    env = dm_control_env.maker("cartpole_swingup")()
    env.reset()
    ends = [env.step(np.ones(1, np.float32))[2:4] for _ in range(1000)]
    assert ends == [(False, False)] * 999 + [(False, True)]


# Many worlds.


@pytest.fixture
def vector_env(monkeypatch):
    """The real one, to be looked at while it is stepped."""
    pytest.importorskip("shimmy")
    from fastsac.bench.peers import gymnasium_async

    return kept(monkeypatch, gymnasium_async, "AsyncVectorEnv")


def opened_worlds():
    return peers.opened("gymnasium_async", "open_env", "cartpole_swingup", num_envs=4)


def test_worlds_in_processes(vector_env):
    with opened_worlds() as work:
        (env,) = vector_env
        steps = work()
        assert steps >= 3 * 4 and steps % 4 == 0
        obs, reward, *_ = env.step(np.zeros((4, 1), np.float32))
        assert obs.shape == (4, 5) and obs.dtype == np.float32 and reward.shape == (4,)
        assert len({*map(bytes, env.reset()[0])}) == 4, "worlds of their own seeds"
        assert all(process.is_alive() for process in env.processes)
        for process in env.processes:
            with open(f"/proc/{process.pid}/maps") as file:
                assert not {"torch", "jaxlib"} & {*file.read().split("/")}
    assert not any(process.is_alive() for process in env.processes)


def test_the_processes_end_where_the_bench_is_interrupted(vector_env):
    with pytest.raises(KeyboardInterrupt), opened_worlds():
        vector_env[0].step_async(np.zeros((4, 1), np.float32))
        raise KeyboardInterrupt
    assert not any(process.is_alive() for process in vector_env[0].processes)


def test_a_world_that_dies_makes_the_peer_unavailable(vector_env):
    with pytest.raises(Unavailable, match="Error"), opened_worlds() as work:
        os.kill(vector_env[0].processes[0].pid, signal.SIGKILL)
        work()
    assert not any(process.is_alive() for process in vector_env[0].processes)


# Learners and training.


def weights(model):
    """Of SB3's policy, or of SBX's, as one array."""
    if hasattr(model, "critic_target"):
        return np.concatenate([p.detach().numpy().ravel() for p in model.policy.parameters()])
    import jax

    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(model.policy.actor_state.params)])


@pytest.fixture(params=["sb3", "sbx"])
def algorithm(request, monkeypatch):
    """An adapter's name, and the models that it makes."""
    pytest.importorskip({"sb3": "stable_baselines3", "sbx": "sbx"}[request.param])
    pytest.importorskip("shimmy")
    adapter = importlib.import_module(f"fastsac.bench.peers.{request.param}")
    made = {"sb3": "SAC", "sbx": "_Float32"}[request.param]
    return request.param, kept(monkeypatch, adapter, made)


def test_sb3_and_sbx_update(algorithm):
    name, models = algorithm
    with peers.opened(name, "open_learner", 8, 16, 2) as work:
        (model,) = models
        buffer, columns = model.replay_buffer, learner.transitions()
        assert buffer.size() == learner.TRANSITIONS
        assert np.array_equal(buffer.next_observations[:, 0], columns[-1].cpu())
        before, updates = weights(model), model._n_updates
        count = work()
        assert count == model._n_updates - updates >= 2 and count % 2 == 0
        assert (weights(model) != before).mean() > 0.5


def test_sb3_and_sbx_update_once_a_step(algorithm):
    name, models = algorithm
    with peers.opened(name, "open_training", "cartpole_swingup") as work:
        (model,) = models
        assert model.batch_size == 256 and model.num_timesteps - model._n_updates == 100
        before, steps, updates = weights(model), model.num_timesteps, model._n_updates
        count = work()
        assert count == model.num_timesteps - steps == model._n_updates - updates > 0
        assert model.replay_buffer.size() == model.num_timesteps, "every step is kept"
        assert (weights(model) != before).mean() > 0.5


def test_torchrl_updates():
    pytest.importorskip("torchrl")
    from fastsac.bench.peers import torchrl

    loss, replay = torchrl._loss(16), torchrl._filled_replay(8)
    update = torchrl.Update(replay, loss)
    assert float(loss.target_entropy) == -ACT
    critics = loss.qvalue_network_params.flatten_keys()
    targets = loss.target_qvalue_network_params.flatten_keys()
    actor = loss.actor_network_params.flatten_keys()
    assert {len(x) for x in critics.values()} == {2}, "twins"
    before = {n: x.detach().clone() for n, x in critics.items()}
    acting = actor.detach().clone()
    for slow in targets.values():
        slow.data.zero_()
    alpha = float(loss.log_alpha.detach())
    update()
    replay.shutdown()
    for name, new in critics.items():
        # Adam's first step is the learning rate long, wherever there is a gradient.
        moved = (new.detach() - before[name]).abs()
        assert moved.max() == pytest.approx(3e-4, rel=1e-2)
        torch.testing.assert_close(targets[name], 0.005 * new.detach(), rtol=1e-4, atol=0)
    assert all((actor[n] != x).any() for n, x in acting.items())
    assert abs(float(loss.log_alpha.detach()) - alpha) == pytest.approx(3e-4, rel=1e-2)


def test_torchrl_works_and_takes_one_update_a_call():
    pytest.importorskip("torchrl")
    with peers.opened("torchrl", "open_learner", 8, 16, 1) as work:
        assert work() > 0
    with pytest.raises(Unavailable, match="one update"):
        with peers.opened("torchrl", "open_learner", 8, 16, 64):
            pass


@pytest.mark.parametrize("variant", ["eager", pytest.param("compile", marks=pytest.mark.slow)])
def test_plain_sac_updates_once_a_step(variant, monkeypatch):
    pytest.importorskip("shimmy")
    agents, loops = (kept(monkeypatch, plain_sac, name) for name in ("PlainSAC", "Loop"))
    with peers.opened("plain_sac", "open_training", "cartpole_swingup", variant) as work:
        (agent,), (loop,) = agents, loops
        before, steps = [p.detach().clone() for p in agent.actor.parameters()], loop._stored
        count = work()
        taken = {float(s["step"]) for s in agent.critic_optimizer.state.values()}
        assert loop._stored - steps == count > 0
        assert taken == {loop._stored - 100} == {loop._sampled.filled - 100}
        after = agent.actor.parameters()
        assert all((p != old).any() for p, old in zip(after, before, strict=True))
        obs, action, reward, terminated, next_obs = (x[: loop._stored] for x in loop._replay)
        assert torch.equal(obs[1:], next_obs[:-1]), "a transition begins where the last one ended"
        assert (action.abs() <= 1).all() and action.std() > 0.1
        assert (reward > 0).any() and not terminated.any()


# What cannot be set up.


@pytest.mark.parametrize(
    "module, package, extra, arguments",
    [
        ("envpool", "envpool", "bench-envpool", ("open_env", "cheetah_run", 2)),
        ("gymnasium_async", "shimmy", "bench-gymnasium", ("open_env", "cheetah_run", 2)),
        ("plain_sac", "shimmy", "bench-gymnasium", ("open_training", "cheetah_run", "eager")),
        ("sb3", "stable_baselines3", "bench-sb3", ("open_learner", 8, 16, 1)),
        ("sbx", "sbx", "bench-sbx", ("open_learner", 8, 16, 1)),
        ("torchrl", "torchrl", "bench-torchrl", ("open_learner", 8, 16, 1)),
        ("playground", "mujoco_playground", "bench-brax", ("open_env", "cheetah_run", 2)),
        ("brax_sac", "brax", "bench-brax", ("open_training", "cheetah_run")),
    ],
)
def test_a_package_that_is_not_installed(module, package, extra, arguments, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"fastsac.bench.peers.{module}", raising=False)
    with pytest.raises(Unavailable, match=rf"pip install 'fastsac\[{extra}\]' \("):
        with peers.opened(module, *arguments):
            pass


def test_a_task_that_the_peer_does_not_have():
    pytest.importorskip("shimmy")
    with pytest.raises(Unavailable, match="NameNotFound.*swimmer9"):
        with peers.opened("gymnasium_async", "open_env", "swimmer_swimmer9", num_envs=2):
            pass
