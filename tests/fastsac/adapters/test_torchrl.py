"""TorchRL's checks, collector, SAC loss and PPO on its EnvBase."""

import pytest
import torch
from torch import nn

pytest.importorskip("torchrl")

from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import RewardSum, StepCounter, TransformedEnv, check_env_specs
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss, SACLoss, SoftUpdate
from torchrl.objectives.value import GAE

import fastsac
from fastsac.adapters.torchrl import Env

NAN = float("nan")


@pytest.fixture
def vec():
    made = []

    def build(*args, **kwargs):
        made.append(Env(*args, **kwargs))
        return made[-1]

    yield build
    for env in made:
        env.close(raise_if_closed=False)


def _mlp(inputs, outputs):
    return MLP(inputs, outputs, num_cells=[64, 64], activation_class=nn.ELU)


def policy(env):
    size, actions = env.observation_spec["observation"].shape[-1], env.action_spec.shape[-1]
    network = nn.Sequential(_mlp(size, 2 * actions), NormalParamExtractor())
    return ProbabilisticActor(
        TensorDictModule(network, ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=env.action_spec_unbatched,
        distribution_class=TanhNormal,
        return_log_prob=True,
    )


@pytest.mark.parametrize("num_envs", [1, 4])
def test_torchrls_own_check_passes(vec, num_envs):
    env = vec("walker_run", num_envs)
    check_env_specs(env, break_when_any_done="both")
    check_env_specs(env, seed=3)
    check_env_specs(TransformedEnv(env, RewardSum()))


def test_a_rollout_is_the_envs_own(vec):
    env, ours = vec("walker_run", 3), fastsac.make("walker_run", 3)
    env.set_seed(5)
    steps = env.rollout(4)
    obs, _ = ours.reset(seed=5)
    for i in range(4):
        step = steps[:, i]
        assert torch.equal(step["observation"], obs)
        obs, reward, *_ = ours.step(step["action"])
        assert torch.equal(step["next", "observation"], obs)
        assert torch.equal(step["next", "reward"], reward[:, None])
    assert not steps["next", "done"].any()
    ours.close()


def test_ended_worlds_keep_their_last_observation_and_begin_anew(vec):
    env = vec("pendulum_swingup", 2)
    steps = env.rollout(1_003, break_when_any_done=False)
    ends = steps["next", "done"][0, :, 0].nonzero().ravel().tolist()
    assert ends == [999] and torch.equal(steps["next", "done"], steps["next", "truncated"])
    follows = (steps["next", "observation"][:, :-1] == steps["observation"][:, 1:]).all(-1)
    assert (~follows).nonzero().tolist() == [[0, 999], [1, 999]]
    # One world's reset leaves the other alone.
    env.reset()
    before = env.env.get_state()["qpos"].clone()
    mask = torch.tensor([[False], [True]])
    env.reset(env.fake_tensordict().select("observation", "done").set("_reset", mask))
    changed = (env.env.get_state()["qpos"] != before).any(-1)
    assert changed.tolist() == [False, True]


def test_a_diverged_world_is_terminated(vec):
    env = vec("pendulum_swingup", 2)
    start = env.reset().set("action", torch.tensor([[NAN], [0.0]]))
    step = env.step(start)["next"]
    assert step["terminated"].tolist() == step["done"].tolist() == [[True], [False]]
    assert not step["truncated"].any() and step["reward"][0] == 0


def test_a_seed_fixes_the_sequence_and_close_ends_it(vec):
    env = vec("pendulum_swingup", 2)
    env.set_seed(7)
    one = env.reset()["observation"]
    assert not torch.equal(env.reset()["observation"], one)
    env.set_seed(7)
    assert torch.equal(env.reset()["observation"], one)
    env.close()
    with pytest.raises(RuntimeError, match="closed"):
        env.env.reset()


def test_collector_replay_and_sac_loss_run(vec):
    env = TransformedEnv(vec("cartpole_balance", 8), StepCounter())
    torch.manual_seed(0)
    actor, value = policy(env), ValueOperator(_mlp(6, 1), ["action", "observation"])
    loss = SACLoss(actor, value, target_entropy=-1.0)
    loss.make_value_estimator(gamma=0.99)
    optimizer, target = torch.optim.Adam(loss.parameters(), 1e-3), SoftUpdate(loss, tau=0.005)
    replay = TensorDictReplayBuffer(storage=LazyTensorStorage(10_000), batch_size=64)
    before = [p.clone() for p in actor.parameters()]
    collector = Collector(env, actor, frames_per_batch=8 * 256, total_frames=8 * 1_024)
    for batch in collector:
        assert batch.shape == (8, 256) and batch["next", "observation"].isfinite().all()
        replay.extend(batch.reshape(-1))
        for _ in range(4):
            losses = loss(replay.sample())
            sum(losses[k] for k in ("loss_actor", "loss_qvalue", "loss_alpha")).backward()
            optimizer.step()
            optimizer.zero_grad()
            target.step()
    assert len(replay) == 8 * 1_024 and replay[:]["next", "truncated"].sum() == 8
    assert replay[:]["next", "step_count"].max() == 1_000
    assert any(not torch.equal(a, b) for a, b in zip(before, actor.parameters(), strict=True))
    collector.shutdown()


def test_the_pages_example_runs(example):
    names = example("TorchRL")
    assert names["batch"]["next", "reward"].shape == (64, 16, 1)
    names["env"].close(raise_if_closed=False)


@pytest.mark.slow
@pytest.mark.timeout(900)  # minutes beside other programs
def test_ppo_learns_to_balance(vec, balances):
    env = vec("cartpole_balance", 64)
    torch.manual_seed(0)
    actor, critic = policy(env), ValueOperator(_mlp(5, 1), ["observation"])
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic, average_gae=True)
    loss = ClipPPOLoss(actor, critic, entropy_bonus=False)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-3)
    collector = Collector(env, actor, frames_per_batch=64 * 64, total_frames=64 * 19_200)
    for batch in collector:
        with torch.no_grad():
            advantage(batch)
        rows = batch.reshape(-1)
        for _ in range(5):
            for part in rows[torch.randperm(len(rows))].split(256):
                losses = loss(part)
                (losses["loss_objective"] + losses["loss_critic"]).backward()
                nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad()
    collector.shutdown(close_env=False)
    mean = actor[0]
    balances(lambda obs: mean(TensorDict({"observation": obs}, [len(obs)]))["loc"].tanh())


@pytest.mark.parametrize(("name", "value"), [("flatten", False), ("pixels", (8, 8))])
def test_observations_are_flat(vec, name, value):
    with pytest.raises(ValueError, match=f"this adapter takes no {name}"):
        vec("walker_run", 3, **{name: value})
    vec("walker_run", 3, flatten=True, pixels=None)
