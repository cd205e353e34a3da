"""Faults that a GPU would show, each planted into a run of fake_cuda.py's and taken out again."""

import sys
from contextlib import contextmanager
from unittest.mock import patch

import torch

from fastsac.kernels import adam_polyak_, compiler, polyak_, replay_gather, tanh_gaussian
from fastsac.learner import losses
from fastsac.learner.replay import ReplayBuffer


def patched(entry, name, faulty):
    """Another function of that name in the module of a kernel's public entry."""
    return patch.object(sys.modules[entry.__module__], name, faulty)


def own(entry, name):
    return getattr(sys.modules[entry.__module__], name)


@contextmanager
def cpu_scalar(learning):
    learning.agent.discount = torch.tensor(0.99)
    yield


@contextmanager
def float64_scalar(learning):
    learning.agent.discount = learning.agent.discount.double()
    yield


def critics_gradient(then):
    """A context in which the critics' gradient is what then makes of it and the weights."""

    @contextmanager
    def planted(learning):
        true = losses.critic_loss_gradient
        faulty = lambda q, target, weight: then(true(q, target, weight), weight)  # noqa: E731
        with patch.object(losses, "critic_loss_gradient", faulty):
            yield

    return planted


@contextmanager
def cpu_rows(learning):
    add = learning.replay.add
    learning.replay.add = lambda obs, *others: add(obs.cpu(), *others)
    yield


@contextmanager
def int64_step(learning):
    optimizer = learning.agent.critic_optimizer
    optimizer._state = optimizer._state._replace(step=optimizer._state.step.long())
    yield


@contextmanager
def int32_index(learning):
    true = own(replay_gather, "fused")
    faulty = lambda rows, index, *others: true(rows, index.int(), *others)  # noqa: E731
    with patched(replay_gather, "fused", faulty):
        yield


@contextmanager
def int64_size(learning):
    with learning.watch.part("learn"):
        polyak_(*(torch.empty(2**31, device="cuda") for _ in range(2)), learning.agent.tau)
    yield


def transposed(x):
    """The same numbers, column by column."""
    return x.t().contiguous().t()


@contextmanager
def transposed_kernel_output(learning):
    true = own(tanh_gaussian, "_launch")

    def faulty(kernel, shape, mean, log_std, noise, action, *others):
        true(kernel, shape, mean, log_std, noise, transposed(action), *others)

    with patched(tanh_gaussian, "_launch", faulty):
        yield


@contextmanager
def transposed_actions(learning):
    act = learning.agent.act
    learning.agent.act = lambda *arguments, **kinds: transposed(act(*arguments, **kinds))
    yield


@contextmanager
def strided_gradient(learning):
    true = own(adam_polyak_, "fused")

    def faulty(parameter, gradient, *others):
        true(parameter, torch.stack([gradient, gradient], dim=-1)[..., 0], *others)

    with patched(adam_polyak_, "fused", faulty):
        yield


@contextmanager
def foreign_generator(learning):
    own, agent = torch.Generator("cuda"), learning.agent
    agent.noise = lambda rows: torch.empty(rows, agent.action_dim, device="cuda").normal_(
        generator=own
    )
    yield


@contextmanager
def global_generator(learning):
    agent = learning.agent
    agent.noise = lambda rows: torch.randn(rows, agent.action_dim, device="cuda")
    yield


@contextmanager
def another_gpus_obs(learning):
    learning.obs = torch.empty(learning.obs.shape, device="cuda:1")
    yield


@contextmanager
def another_gpus_replay(learning):
    learning.replay = ReplayBuffer(100, learning.obs_dim, learning.action_dim, "cuda:1")
    learning.replay.added = 1
    yield


@contextmanager
def moved_scalar(learning):
    observe, agent = learning.agent.observe, learning.agent

    def faulty(obs):
        observe(obs)
        agent.discount = agent.discount.clone()

    agent.observe = faulty
    yield


@contextmanager
def without_kernels(learning):
    """As after the failure of each; no fault."""
    modules = {name for name in sys.modules if name.startswith("fastsac.kernels.")}
    with patch.object(compiler, "_failed", modules):
        yield


# What is planted, and what of the complaints says so.
FAULTS = {
    "a CPU scalar in the update": (cpu_scalar, r"learn: aten::pow has a tensor \(\) on cpu"),
    "a float64 scalar in the update": (float64_scalar, "learn: aten::pow computes in float64"),
    "an .item()": (
        critics_gradient(lambda g, weight: g * weight.sum().item()),
        "learn: aten::_local_scalar_dense waits",
    ),
    "a tensor as a condition": (
        critics_gradient(lambda g, weight: g if weight.all() else -g),
        "learn: aten::_local_scalar_dense waits",
    ),
    "a boolean mask": (
        critics_gradient(lambda g, weight: g * len(weight[weight > 0])),
        "DynamicOutputShapeException",
    ),
    "a tensor fetched": (
        critics_gradient(lambda g, weight: g * weight.cpu().to(g.device)),
        "learn: aten::_to_copy has a tensor .* on cpu",
    ),
    "rows on the CPU": (cpu_rows, "add: .* on cpu"),
    "an int64 tensor for a float32 one": (int64_step, r"_count: step \(\) is torch.int64"),
    "an int32 index": (int32_index, r"replay_gather._forward: index \(64,\) is torch.int32"),
    "an int64 size": (int64_size, "polyak._forward: size = 2147483648 is no int32"),
    "a kernel's output transposed": (
        transposed_kernel_output,
        r"tanh_gaussian._forward: action \(8, 21\) has strides \(1, 8\)",
    ),
    "actions transposed": (transposed_actions, "policy_action has strides"),
    "an argument that is not contiguous": (
        strided_gradient,
        r"adam_polyak._square_sums: gradient \(\d+,\) has strides \(2,\)",
    ),
    "a generator that the graph does not know": (foreign_generator, "does not register"),
    "the global generator": (global_generator, "draws from the global generator"),
    "observations on another GPU": (another_gpus_obs, "obs must be on cuda:0, got cuda:1"),
    "a replay on another GPU": (another_gpus_replay, "67, 21, cuda:0, not 67, 21, cuda:1"),
    "a tensor that moves between the graph's calls": (moved_scalar, "other memory"),
}
