"""The memory plan: hand-computed parts, the fast preset's sum, and what is refused."""

import dataclasses

import pytest
import torch

import fastsac
from fastsac import SAC, ReplayBuffer
from fastsac.envs.devices import EngineUnavailable
from fastsac.errors import ConfigError
from fastsac.learner.config import SACConfig
from fastsac.training import memory_plan
from fastsac.training.config import TrainConfig
from fastsac.training.presets import preset_config

CPU = torch.device("cpu")


def test_parts_by_hand():
    sac = SACConfig(hidden_sizes=(8,), num_critics=3)
    config = TrainConfig("x", num_envs=5, batch_size=7, replay_capacity=11, sac=sac)
    plan = memory_plan.memory_plan(config, obs_dim=4, action_dim=2, worlds=1000)
    assert plan.replay == 11 * 4 * (4 + 2 + 1 + 1 + 4 + 1 + 1)
    assert plan.worlds == 1000
    actor, critics = (4 + 1) * 8 + (8 + 1) * 4, 3 * ((6 + 1) * 8 + (8 + 1) * 1)
    assert plan.networks == 4 * (4 * actor + (4 + 2) * critics)
    # Twice the actor's rows (4 + 8 + 4 wide), three times three critics' (6 + 8 + 1 wide).
    assert plan.updates == 4 * 4 * (7 * (2 * 16 + 9 * 15) + 5 * 16)
    assert plan.total == plan.replay + 1000 + plan.networks + plan.updates


@pytest.mark.parametrize("precision, atoms", [("float32", None), ("bf16", 11)])
def test_networks_and_replay_are_what_the_learner_holds(precision, atoms):
    sac = SACConfig(hidden_sizes=(16, 8), precision=precision, num_atoms=atoms)
    config = TrainConfig("x", replay_capacity=100, sac=sac)
    plan = memory_plan.memory_plan(config, 5, 3, worlds=0)
    assert plan.replay == ReplayBuffer(100, 5, 3).rows.nbytes
    # Of float32: this machine's CPU may have no units for bf16.
    agent = SAC(5, 3, dataclasses.replace(sac, precision="float32"))
    held = 0
    for weights in (agent.actor_weights, agent.critic_weights, agent.target_weights):
        held += weights.master.nbytes + weights.gradient.nbytes
        held += 2 * weights.master.numel() * (precision == "bf16")
    for optimizer in (agent.actor_optimizer, agent.critic_optimizer):
        moments = optimizer.state_dict()
        held += moments["exp_avg"].nbytes + moments["exp_avg_sq"].nbytes
    assert plan.networks == held


def test_4096_humanoids_and_a_million_transitions_fit_24_gb():
    from fastsac.envs.engines.mjx import MjxEngine
    from fastsac.envs.registry import find
    from fastsac.envs.suite import load_suite

    engine = MjxEngine(load_suite(find("humanoid_walk")), 4096)
    config = preset_config("humanoid_walk", "fast", num_envs=4096, replay_capacity=1_000_000)
    plan = memory_plan.memory_plan(config, engine.obs_dim, 21, engine.reset_bytes)
    assert plan.worlds > 0.1e9 and plan.replay == 1_000_000 * 4 * (2 * 67 + 21 + 4)
    assert plan.total < 24e9, plan


def test_the_sentence_names_every_part_and_its_flag(monkeypatch):
    monkeypatch.setattr(memory_plan, "free_bytes", lambda device: 10**9)
    config = TrainConfig("x", num_envs=64, replay_capacity=10_000_000)
    plan = memory_plan.memory_plan(config, 24, 6, worlds=0)
    with pytest.raises(ConfigError) as caught:
        plan.require(config, CPU)
    sentence = str(caught.value)
    assert "needs 2.34 GB on cpu and 1.00 GB are free" in sentence
    assert "2.32 GB for --replay-capacity 10000000" in sentence
    assert "--num-envs 64" in sentence and "--batch-size 256" in sentence
    dataclasses.replace(plan, replay=10**8).require(config, CPU)  # which fits


def test_too_many_native_worlds_are_refused_before_they_are_made():
    many = {"num_envs": 10**7, "replay_capacity": 10**8, "total_steps": 10**9}
    config = TrainConfig("cheetah_run", engine="native", **many)
    with pytest.raises(ConfigError, match="--num-envs 10000000 needs about 3000.00 GB .* lower it"):
        memory_plan.require_worlds(config)
    with pytest.raises(ConfigError, match="needs about 57.41 GB"):  # a model a world
        memory_plan.require_worlds(TrainConfig("quadruped_escape", num_envs=4096))


def test_a_task_of_ones_own_with_a_terrain_a_world_counts_its_models():
    """1000 times 1000 heights of 4 bytes, and what dm_control may draw of them."""
    mjcf = """<mujoco><asset><hfield name="hills" nrow="1000" ncol="1000" size="1 1 1 1"/></asset>
      <worldbody><geom type="hfield" hfield="hills"/><body><joint name="hinge"/>
      <geom size="0.1"/></body></worldbody>
      <actuator><motor joint="hinge"/></actuator></mujoco>"""

    def hills(physics, random):
        physics.model.hfield_data[:] = random.uniform(0, 1, 10**6)

    shape = {"observe": lambda p: {"x": p.qpos}, "reward": lambda p: p.qpos[0]}
    fastsac.register("hills", mjcf, **shape, initialize=hills, randomised=["hfield_data"])
    fastsac.register("flat", mjcf, **shape)
    config = {"num_envs": 10**5, "replay_capacity": 10**7, "total_steps": 10**9}
    with pytest.raises(ConfigError, match=r"needs about 4\d\d.\d\d GB for its worlds"):
        memory_plan.require_worlds(TrainConfig("hills", **config))
    with pytest.raises(ConfigError, match="needs about 30.00 GB for its worlds"):
        memory_plan.require_worlds(TrainConfig("flat", **config))
    with pytest.raises(EngineUnavailable, match="num_envs 100000 is more than fits"):
        fastsac.make("hills", num_envs=10**5)
