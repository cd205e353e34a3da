"""One bad transition: the steps that it reaches are skipped and counted, all else goes on."""

import dataclasses
import math

import pytest
import torch

from fastsac import SAC, Batch, ReplayBuffer, SACConfig

OBS, ACT, B = 5, 3, 32
SMALL = SACConfig(hidden_sizes=(16, 12), learning_rate=3e-3)
CONFIGS = {
    "v2": SMALL,
    "v1": dataclasses.replace(SMALL, temperature=0.1),
    "normalised, delayed": dataclasses.replace(SMALL, normalize_obs=True, policy_delay=2),
    "distributions": dataclasses.replace(
        SMALL, num_atoms=11, value_range=(-1.0, 9.0), layer_norm=True, weight_decay=0.1
    ),
}
# Of a replay's row, where each begins that one number can spoil.
COLUMNS = {"obs": 0, "action": OBS, "reward": OBS + ACT, "next_obs": OBS + ACT + 2}
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def setup(config, capacity=50, seed=0):
    """An agent and a full replay; the same for the same arguments."""
    agent, replay = SAC(OBS, ACT, config, seed=seed), ReplayBuffer(capacity, OBS, ACT, seed=seed)
    g = torch.Generator().manual_seed(5)
    obs, next_obs = torch.randn(2, capacity, OBS, generator=g)
    action = torch.rand(capacity, ACT, generator=g) * 2 - 1
    replay.add(obs, action, torch.rand(capacity, generator=g), torch.zeros(capacity), next_obs)
    agent.observe(obs)
    return agent, replay


def optimizers(agent):
    found = {"actor": agent.actor_optimizer, "critics": agent.critic_optimizer}
    learned = agent.alpha_optimizer is not None
    return found | ({"temperature": agent.alpha_optimizer} if learned else {})


def held(agent):
    """What each optimizer moves and remembers: bits, by its name."""
    weights = {
        "actor": [agent.actor_flat],
        "critics": [agent.critics_flat, agent.target_flat],
        "temperature": [agent.log_alpha],
    }
    tensors = {
        name: weights[name] + [optimizer.state_dict()[m] for m in MOMENTS]
        for name, optimizer in optimizers(agent).items()
    }
    return {name: [x.numpy().tobytes() for x in parts] for name, parts in tensors.items()}


def poisoned(batch, column, bad):
    batch = Batch(*(x.clone() for x in batch))
    getattr(batch, column).view(len(batch.reward), -1)[-1, -1] = bad
    return batch


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_updates_that_draw_a_bad_transition_skip_the_steps_it_reaches(name, bad, column):
    agent, replay = setup(CONFIGS[name])
    twin = setup(CONFIGS[name])[1]
    replay.rows[7, COLUMNS[column]] = bad
    parts = set(optimizers(agent))
    readers = parts if column == "obs" else {"critics"}
    if agent.config.num_atoms and column == "reward" and math.isinf(bad):
        readers = set()  # what lies beyond the atoms' range is its end
    skipped, streaks = dict.fromkeys(parts, 0), dict.fromkeys(parts, 0)
    for number in range(1, 31):
        turns = parts if number % agent.config.policy_delay == 0 else {"critics"}
        draws_it = (twin.sample(B).obs == twin.rows[7, :OBS]).all(dim=1).any()
        before, reached = held(agent), turns & readers if draws_it else set()
        metrics = agent.learn(replay, B)
        for part, now in held(agent).items():
            moved = [a != b for a, b in zip(before[part], now, strict=True)]
            assert all(moved) if part in turns - reached else not any(moved), part
        skipped |= {part: skipped[part] + 1 for part in reached}
        streaks |= {part: streaks[part] + 1 if part in reached else 0 for part in turns}
        assert metrics["skipped_updates"] == agent.skipped_updates == sum(skipped.values())
        assert agent.skipped_in_a_row == max(streaks.values())
        assert draws_it or all(value.isfinite() for value in metrics.values())
    assert 5 < skipped["critics"] < 25 if readers else not any(skipped.values())


@pytest.mark.parametrize("name", CONFIGS)
def test_what_follows_is_as_if_the_bad_batch_had_not_been(name):
    config = dataclasses.replace(CONFIGS[name], policy_delay=1)
    (one, replay), (two, _) = setup(config), setup(config)
    for number in range(6):
        batch = replay.sample(B)
        if number in (0, 3):
            noise = one.generator.get_state()
            one.update(poisoned(batch, "obs", math.nan))
            assert held(one) == held(two)
            one.generator.set_state(noise)
        one.update(batch), two.update(batch)
        assert held(one) == held(two)
    assert one.skipped_updates == 2 * len(optimizers(one)) and two.skipped_updates == 0
    assert torch.equal(one.act(batch.obs), two.act(batch.obs))


def test_the_longest_streak_counts_and_a_delayed_policys_ends_at_its_turn():
    agent, replay = setup(CONFIGS["normalised, delayed"])
    clean, bad = replay.sample(B), poisoned(replay.sample(B), "obs", math.inf)
    seen = []
    for batch in (bad, bad, bad, bad, clean, clean, bad, clean):
        agent.update(batch)
        seen.append((int(agent.skipped_updates), int(agent.skipped_in_a_row)))
    # Critics at each update; actor and temperature at the second, fourth, ...: 4 + 2 + 2.
    assert seen == [(1, 1), (4, 2), (5, 3), (8, 4), (8, 2), (8, 0), (9, 1), (9, 0)]


def test_an_updates_count_is_its_own_and_a_restored_state_has_it():
    agent, replay = setup(SMALL)
    bad = poisoned(replay.sample(B), "reward", math.inf)
    first, second = agent.update(bad)["skipped_updates"], agent.update(bad)["skipped_updates"]
    assert (first, second) == (1, 2)
    restored, _ = setup(SMALL, seed=3)
    restored.load_state_dict(agent.state_dict())
    assert restored.skipped_updates == 2 and restored.skipped_in_a_row == 2
    restored.update(replay.sample(B))
    assert restored.skipped_updates == 2 and restored.skipped_in_a_row == 0
