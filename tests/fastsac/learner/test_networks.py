"""The networks' written-out gradients against autograd's, member by member."""

import pytest
import torch

from fastsac import SACConfig
from fastsac.learner import networks
from fastsac.learner.networks import Actor, Critics, EnsembleMLP

B = 7
WIDTHS = [(5, 3), (4, 8, 1), (4, 16, 12, 6), (3, 8, 8, 8, 2)]


each_norm = pytest.mark.parametrize("layer_norm", [False, True], ids=["plain", "layer norm"])


@pytest.fixture(params=[False, True], ids=["operations", "as on a GPU"])
def fuses(request, monkeypatch):
    """Layers of a GPU's kind, whose kernels are their references here."""
    if request.param:
        monkeypatch.setattr(networks, "_fuses", lambda x: True)


def network(members, sizes, dtype=torch.float64, layer_norm=False, seed=3):
    return EnsembleMLP(members, sizes, torch.Generator().manual_seed(seed), layer_norm).to(dtype)


def standardised(x):
    """Layer normalisation of x (B, H) over H: the variance is the mean of squares, plus 1e-5."""
    x = x - x.sum(1, keepdim=True) / x.shape[1]
    return x / torch.sqrt((x**2).sum(1, keepdim=True) / x.shape[1] + 1e-5)


def plain(mlp, x, layer_norm):
    """The same function by autograd's own means, a member at a time."""
    outputs = []
    for member in range(len(mlp.layers[0].weight)):
        y = x
        for i, layer in enumerate(mlp.layers):
            if i:
                y = (standardised(y) if layer_norm else y).clamp(min=0)
            y = y @ layer.weight[member] + layer.bias[member, 0]
        outputs.append(y)
    return torch.stack(outputs)


def parts_of(sizes, cuts, dtype=torch.float64):
    g = torch.Generator().manual_seed(5)
    x = torch.randn(B, sizes[0], generator=g, dtype=torch.float64).to(dtype)
    return x.split([*cuts, sizes[0] - sum(cuts)], dim=1)


@pytest.mark.parametrize("cuts", [(), (2,), (1, 1)], ids=["whole", "two parts", "three parts"])
@pytest.mark.parametrize("sizes", WIDTHS, ids=str)
@pytest.mark.parametrize("members", [1, 2, 5])
@each_norm
def test_values_and_gradients_are_autograds(layer_norm, members, sizes, cuts, fuses, close):
    mlp = network(members, sizes, layer_norm=layer_norm)
    parts = [p.clone().requires_grad_() for p in parts_of(sizes, cuts)]
    inputs = [*parts, *mlp.parameters()]
    output, want = mlp(*parts), plain(mlp, torch.cat(parts, dim=1), layer_norm)
    close(output, want, "float64")
    by_output = torch.randn(want.shape, dtype=torch.float64)
    wanted = torch.autograd.grad(want, inputs, by_output)
    for got, expected in zip(torch.autograd.grad(output, inputs, by_output), wanted, strict=True):
        close(got, expected, "float64")

    recorded, tape = mlp.record(*parts)
    close(recorded, want, "float64")
    close(mlp.infer(*parts), want, "float64")
    into = [torch.full_like(p, torch.nan) for p in mlp.parameters()]
    tape.differentiate(by_output, into)
    for got, expected in zip(into, wanted[len(parts) :], strict=True):
        close(got, expected, "float64")
    for i, expected in enumerate(wanted[: len(parts)]):
        close(tape.input_gradient(by_output, i), expected, "float64")


@pytest.mark.parametrize("first", [0, 3, 6])
@each_norm
def test_the_tape_of_some_rows_is_that_of_a_smaller_batch(layer_norm, first, fuses, close):
    mlp = network(2, (4, 8, 6, 3), layer_norm=layer_norm)
    (x,) = parts_of((4,), ())
    by_output = torch.randn(2, B - first, 3, dtype=torch.float64)
    found = []
    for tape in (mlp.record(x)[1].rows_from(first), mlp.record(x[first:])[1]):
        into = [torch.full_like(p, torch.nan) for p in mlp.parameters()]
        found.append([tape.differentiate(by_output, into), *into])
    for some, alone in zip(*found, strict=True):
        close(some, alone, "float64")


def test_parameters_that_need_no_gradient_get_none_and_used_twice_they_add_up(close):
    mlp = network(2, (4, 8, 1))
    (x,) = parts_of((4,), ())
    once = torch.autograd.grad(mlp(x).sum(), list(mlp.parameters()))
    twice = torch.autograd.grad((mlp(x) + mlp(x)).sum(), list(mlp.parameters()))
    for a, b in zip(once, twice, strict=True):
        close(b, 2 * a, "float64")
    mlp.requires_grad_(False)
    x = x.clone().requires_grad_()
    mlp(x).sum().backward()
    assert x.grad.any() and all(p.grad is None for p in mlp.parameters())
    with torch.no_grad():
        assert not mlp(x).requires_grad


@each_norm
def test_bf16_weights_take_and_return_the_inputs_dtype(layer_norm, fuses, close):
    # A seed with which no ReLU's argument is so small that rounding changes its sign.
    exact, rounded = (
        network(2, (4, 8, 1), dtype, layer_norm, seed=4)
        for dtype in (torch.float32, torch.bfloat16)
    )
    parts = parts_of((4,), (1,), torch.float32)
    output, tape = rounded.record(*parts)
    assert output.dtype == torch.float32
    close(output, exact(*parts), "bf16 network")
    into = [torch.full_like(p, torch.nan) for p in exact.parameters()]  # float32
    tape.differentiate(torch.ones(2, B, 1), into)
    want = torch.autograd.grad(exact(*parts).sum(), list(exact.parameters()))
    for got, expected in zip(into, want, strict=True):
        close(got, expected, "bf16 network")
    assert tape.input_gradient(torch.ones(2, B, 1), 0).dtype == torch.float32


def test_actor_and_critics_have_the_papers_shapes():
    g = torch.Generator().manual_seed(0)
    config = SACConfig(hidden_sizes=(8,), num_critics=4)
    actor, critics = Actor(5, 3, config, g), Critics(5, 3, config, g)
    obs, action = torch.randn(B, 5), torch.randn(B, 3)
    mean, log_std = actor(obs)
    assert mean.shape == log_std.shape == (B, 3)
    assert critics(obs, action).shape == (4, B)
    assert not torch.equal(critics(obs, action), critics(obs, action + 1))


@each_norm
def test_a_new_policy_has_mean_0_and_the_deviation_asked_for(layer_norm, close):
    config = SACConfig(hidden_sizes=(8, 8), layer_norm=layer_norm, initial_std=0.3)
    actor = Actor(5, 3, config, torch.Generator().manual_seed(0))
    mean, log_std = actor(1e3 * torch.randn(B, 5))
    assert not mean.any()
    close(log_std.exp(), torch.full((B, 3), 0.3), "float32")


def critics_with_atoms(num=4, v_min=-1.0, v_max=5.0):
    config = SACConfig(hidden_sizes=(8,), num_critics=3, num_atoms=num, value_range=(v_min, v_max))
    return Critics(5, 3, config, torch.Generator().manual_seed(0)).double()


def test_the_value_of_atoms_is_their_mean(close):
    # Atoms -1, 1, 3, 5.
    p = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25] * 4, [1.0, 1e-30, 1e-30, 1e-30]]).double()
    close(critics_with_atoms().values(p.log()[:, None]), [[3], [2], [-1]], "float64")


def test_the_gradients_of_atoms_are_autograds(close):
    critics = critics_with_atoms(11)
    g = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    obs, action, by_value = draw(B, 5), draw(B, 3).requires_grad_(), draw(3, B)
    output, tape = critics.mlp.record(obs, action)
    assert output.shape == (3, B, 11)
    logits = output.clone().requires_grad_()
    e, atoms = torch.exp(logits), [-1 + 0.6 * j for j in range(11)]
    want = sum(z * e[..., j] for j, z in enumerate(atoms)) / e.sum(-1)
    close(critics.values(output), want, "float64")
    distribution = critics.distribution(output)
    by_output = critics.by_output(distribution, critics.mean(distribution), by_value)
    close(by_output, torch.autograd.grad(want, logits, by_value)[0], "float64")
    # And through the networks, as the actor has them.
    value = critics(obs, action)
    close(value, want, "float64")
    (by_action,) = torch.autograd.grad(value, action, by_value)
    close(tape.input_gradient(by_output, 1), by_action, "float64")
