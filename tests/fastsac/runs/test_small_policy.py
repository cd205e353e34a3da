"""Small policy files: a policy within what its weights are rounded by, or one sentence."""

import hashlib
import json

import numpy as np
import pytest
import torch

from fastsac import SAC, SACConfig, load_policy
from fastsac.errors import CheckpointError, DamagedError
from fastsac.learner.policy import Policy
from fastsac.runs import small_policy

NETWORKS = {
    "plain": dict(hidden_sizes=(16, 16)),
    "one layer": dict(hidden_sizes=(3,), normalize_obs=True),
    "layer norm": dict(hidden_sizes=(17, 5, 33), layer_norm=True, normalize_obs=True),
    "large": dict(hidden_sizes=(512, 512), layer_norm=True, normalize_obs=True),
}


def policy_of(obs_dim=15, action_dim=4, **settings):
    """A policy with weights of all sizes, whose normaliser has seen observations around 2."""
    agent = SAC(obs_dim, action_dim, SACConfig(**settings), seed=1, device="cpu")
    generator = torch.Generator().manual_seed(1)
    if agent.normalizer:
        agent.normalizer.update(2 + 3 * torch.randn(200, obs_dim, generator=generator))
    agent.actor_flat.mul_(torch.randn(len(agent.actor_flat), generator=generator).exp())
    return Policy.snapshot(agent, "hopper_hop")


@pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS.keys())
def test_a_policy_comes_back_within_its_rounding(settings, tmp_path):
    policy, file = policy_of(**settings), tmp_path / "x.policy"
    file.write_bytes(small_policy.encode(policy))
    again = load_policy(file)
    assert (again.task, again.obs_dim, again.action_dim) == ("hopper_hop", 15, 4)
    layers = [p.network.actor.mlp.layers for p in (policy, again)]
    for number, (old, new) in enumerate(zip(*layers, strict=True)):
        assert torch.equal(old.bias, new.bias)
        error = (old.weight - new.weight).abs()
        if settings["hidden_sizes"] == (512, 512) and number == 1:
            bound = old.weight.abs().amax(dim=1, keepdim=True) / 127 / 2
        else:  # half a unit of float16, of numbers above its smallest normal one and below
            bound = (old.weight.abs() * 2**-11).clamp(min=2**-25)
        assert (error <= bound * 1.0001).all() and error.max() > 0
    for name, value in (policy.state_dict()["normalizer"] or {}).items():
        assert torch.equal(value, again.state_dict()["normalizer"][name])
    obs = np.random.default_rng(0).normal(2, 3, (255, 15)).astype(np.float32)
    assert 0 < np.abs(policy(obs) - again(obs)).max() < 0.15  # of weights of all sizes
    assert small_policy.encode(again) == file.read_bytes()


@pytest.mark.parametrize(("obs_dim", "action_dim"), [(67, 21), (137, 56), (223, 38)])
def test_the_largest_of_the_suite_stay_below_500_kb(obs_dim, action_dim):
    content = small_policy.encode(policy_of(obs_dim, action_dim, **NETWORKS["large"]))
    assert 350_000 < len(content) <= 500_000
    assert small_policy.decode(content).action_dim == action_dim


def test_a_network_that_fits_is_float16_throughout():
    content = small_policy.encode(policy_of(24, 6, hidden_sizes=(256, 256)))
    about = json.loads(content.split(b"\n")[1])
    assert about["int8"] == []
    assert len(content) > 2 * (24 * 256 + 256 * 256 + 256 * 12)


@pytest.mark.parametrize("column", ["of zeros", "of one number"])
def test_a_column_without_a_scale(column):
    policy = policy_of(**NETWORKS["large"])
    weight = policy.network.actor.mlp.layers[1].weight.data
    weight[:, :, 7] = 0.0 if column == "of zeros" else 1e-30
    again = small_policy.decode(small_policy.encode(policy)).network.actor.mlp.layers[1].weight
    torch.testing.assert_close(again[:, :, 7], weight[:, :, 7], rtol=1e-5, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
@pytest.mark.parametrize("layer", [0, 1])
def test_weights_that_are_no_numbers_are_refused(value, layer):
    policy = policy_of(**NETWORKS["large"])
    policy.network.actor.mlp.layers[layer].weight.data[0, 3, 5] = value
    if value == 1e6 and layer == 1:  # int8 has a scale
        small_policy.encode(policy)
        return
    with pytest.raises(CheckpointError, match="^the policy of hopper_hop has weights that are no"):
        small_policy.encode(policy)


def content_of(about, numbers):
    body = json.dumps(about).encode() + b"\n" + numbers
    return b"fastsac policy 1 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


GOOD = {"task": "x", "obs_dim": 1, "action_dim": 1, "int8": [], "hidden_sizes": [1]}
GOOD |= {"layer_norm": False, "normalize_obs": False}
NUMBERS = bytes(2 + 4 + 4 + 8)


def test_damage_is_named(tmp_path):
    file = tmp_path / "x.policy"
    content = content_of(GOOD, NUMBERS)
    file.write_bytes(content)
    assert load_policy(file)(np.zeros(1, np.float32)) == [0.0]
    for bad in (content[:-1], content + b"x", content[:-1] + b"x", content[:40]):
        file.write_bytes(bad)
        with pytest.raises(DamagedError, match=r"x\.policy is truncated or "):
            load_policy(file)
    file.write_bytes(content.replace(b"policy 1", b"policy 9", 1))
    with pytest.raises(CheckpointError, match="has policy format 9, this version reads 1"):
        load_policy(file)
    file.write_bytes(b"")
    with pytest.raises(DamagedError, match="not a fastsac checkpoint"):
        load_policy(file)


@pytest.mark.parametrize(
    "change",
    [
        {"obs_dim": 2}, {"obs_dim": 0}, {"obs_dim": True}, {"obs_dim": "1"}, {"action_dim": 10**12},
        {"task": 1}, {"hidden_sizes": 1}, {"hidden_sizes": []}, {"hidden_sizes": [10**9]},
        {"layer_norm": "yes"}, {"normalize_obs": True}, {"int8": [0]}, {"int8": None},
    ],
    ids=str,
)  # fmt: skip
def test_content_that_does_not_fit_itself(change, tmp_path):
    file = tmp_path / "x.policy"
    file.write_bytes(content_of(GOOD | change, NUMBERS))
    with pytest.raises(CheckpointError, match="is not a fastsac policy: "):
        load_policy(file)
    for name in change:
        file.write_bytes(content_of({k: v for k, v in GOOD.items() if k != name}, NUMBERS))
        with pytest.raises(CheckpointError, match=f"is not a fastsac policy: '{name}'"):
            load_policy(file)
    for line in (b"[]", b"{", b"\xff"):
        body = line + b"\n" + NUMBERS
        digest = hashlib.sha256(body).hexdigest().encode()
        file.write_bytes(b"fastsac policy 1 " + digest + b"\n" + body)
        with pytest.raises(CheckpointError, match="is not a fastsac policy: "):
            load_policy(file)
