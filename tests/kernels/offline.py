"""Compiles for a GPU what a call launches, without a GPU, and reads ptxas's report.

Run as a program it prints a JSON line for each kernel and architecture:

    python tests/kernels/offline.py 80 90
"""

import importlib
import inspect
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

TARGET = GPUTarget("cuda", 90, 32)
_PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"


class Launch(NamedTuple):
    """A launch that was recorded instead of done."""

    kernel: JITFunction
    arguments: tuple
    constants: dict
    options: dict  # of the compiler: num_warps

    @property
    def name(self):
        return f"{self.kernel.fn.__module__.rsplit('.', 1)[1]}.{self.kernel.fn.__name__}"

    @property
    def bound(self):
        """The arguments by name, constants among them."""
        return inspect.signature(self.kernel.fn).bind(*self.arguments, **self.constants).arguments

    @property
    def source(self):
        """What Triton's launcher would compile, by its own code (JITFunction.run)."""
        backend = make_backend(TARGET)
        binder = create_function_from_signature(self.kernel.signature, self.kernel.params, backend)
        seen = (_Address(x) if isinstance(x, torch.Tensor) else x for x in self.arguments)
        named = self.constants | self.options
        bound, special, options = binder(*seen, **named)
        packed = self.kernel._pack_args(backend, named, bound, special, options)
        source = ASTSource(self.kernel, *packed[1:])
        source.parse_options = lambda: self.options  # which triton.compile asks for
        return source


class _Address:
    """What the launcher looks at of a tensor; torch's own allocations begin at multiples of 16."""

    def __init__(self, tensor):
        self.dtype = tensor.dtype
        self.offset = tensor.storage_offset() * tensor.element_size()

    def data_ptr(self):
        return self.offset


@contextmanager
def recorded():
    """Yields a list that launches are appended to instead of done."""
    launches = []

    def record(kernel, *arguments, grid, warmup, **named):
        options = {k: named.pop(k) for k in named.keys() - kernel.signature.parameters.keys()}
        launches.append(Launch(kernel, arguments, named, options))

    run, JITFunction.run = JITFunction.run, record
    try:
        yield launches
    finally:
        JITFunction.run = run


def sources(call):
    """Returns (name, ASTSource) of each launch of call()."""
    with recorded() as launches:
        call()
    return [(launch.name, launch.source) for launch in launches]


def resources(source, architecture, **options):
    """Returns ptxas's registers, spill_stores and spill_loads (bytes) of a kernel."""
    compiled = triton.compile(source, GPUTarget("cuda", architecture, 32), options or None)
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder, "kernel.ptx")
        ptx.write_text(compiled.asm["ptx"])
        command = [_PTXAS, "-v", f"--gpu-name={_gpu_name(ptx.read_text())}", ptx]
        done = subprocess.run(
            [*command, "-o", f"{folder}/kernel.cubin"], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    found = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    registers = re.search(r"Used (\d+) registers", done.stderr)
    return {
        "registers": int(registers[1]),
        "spill_stores": int(found[1]),
        "spill_loads": int(found[2]),
    }


def _gpu_name(ptx):
    return re.search(r"\.target (sm_\w+)", ptx)[1]


def calls():
    """A call of every kernel at the sizes of training, and at odd ones."""
    names = ("adam_polyak", "categorical_td_loss", "norm_relu", "polyak", "replay_gather")
    adam_polyak, categorical_td_loss, norm_relu, polyak, replay_gather, *others = (
        importlib.import_module(f"fastsac.kernels.{name}")
        for name in (*names, "soft_td_target", "tanh_gaussian")
    )
    soft_td_target, tanh_gaussian = others

    def squash(batch, actions):
        mean, log_std, noise = torch.randn(3, batch, actions)
        tanh_gaussian.fused(mean.requires_grad_(), log_std, noise, -20.0, 2.0)[1].sum().backward()

    def descend(size, with_target):
        p, g, target = torch.randn(3, size)
        rate = torch.tensor(1e-3)
        extra = (target, rate) if with_target else (None, None)
        adam_polyak.fused(p, g, adam_polyak.AdamState.of(p), rate, 0.01, *extra, True)

    def activate(width, normalize, dtype=torch.float32):
        product, bias = torch.randn(2, 64, width).to(dtype), torch.randn(2, 1, width).to(dtype)
        norm_relu.fused(product, bias, normalize, False)
        activated, saved = norm_relu.fused(product, bias, normalize)
        norm_relu.fused_gradient(activated, saved)

    def gather(obs_dim, action_dim, *statistics):
        rows, index = torch.randn(9, 2 * obs_dim + action_dim + 4), torch.arange(9)
        replay_gather.fused(rows, index, action_dim, *(statistics or (None, None)))

    def moved(batch):
        return torch.randn(batch), torch.zeros(batch), torch.randn(batch), torch.tensor(0.1)

    def target(members, reduction, discount):
        reward, terminated, log_prob, alpha = moved(256)
        q = torch.randn(members, 256)
        soft_td_target.fused(reward, terminated, q, log_prob, alpha, discount, reduction)

    def categorical(members, num, reduction, discount):
        reward, terminated, log_prob, alpha = moved(64)
        transitions = categorical_td_loss.Transitions(reward, terminated, log_prob, alpha, discount)
        logits, next_logits = torch.randn(2, members, 64, num)
        atoms = categorical_td_loss.Atoms(num, -1.0, 1.0)
        arguments = (logits.requires_grad_(), next_logits, transitions, atoms, reduction)
        categorical_td_loss.fused(*arguments).sum().backward()

    gamma = torch.tensor(0.99)
    yield from (lambda a=a: squash(256, a) for a in (1, 6, 21, 300))
    yield lambda: squash((1 << 15) + 1, 21)
    yield lambda: polyak.fused(torch.randn(4096), torch.randn(4096), 0.005)
    yield from (lambda w=w: descend(4097, w) for w in (False, True))
    yield lambda: descend(1, False)
    yield from (lambda w=w: activate(w, True) for w in (64, 300, 512, 1024))
    yield lambda: activate(256, False)
    yield lambda: activate(512, True, torch.bfloat16)
    yield lambda: gather(17, 6)
    yield lambda: gather(67, 21, torch.randn(67), torch.rand(67))
    yield lambda: gather(300, 1, torch.randn(300), torch.rand(300))
    yield lambda: target(1, "min", gamma)
    yield lambda: target(2, "min", gamma)
    yield lambda: target(10, "mean", gamma.expand(256).clone())
    yield lambda: categorical(2, 101, "min", gamma)
    yield lambda: categorical(2, 101, "mean", gamma.expand(64).clone())
    yield from (lambda e=e, n=n: categorical(e, n, "min", gamma) for e, n in ((10, 51), (10, 101)))
    yield lambda: categorical(2, 501, "min", gamma)
    yield lambda: categorical(1, 255, "mean", gamma)


def main(architectures):
    torch.manual_seed(0)
    found = [source for call in calls() for source in sources(call)]
    jobs = [(name, source, sm) for name, source in found for sm in architectures]
    with ThreadPoolExecutor(2) as pool:
        reports = pool.map(lambda job: resources(job[1], job[2]), jobs)
        for (name, _, sm), report in zip(jobs, reports, strict=True):
            print(json.dumps({"kernel": name, "sm": sm, **report}), flush=True)


if __name__ == "__main__":
    main([int(x) for x in sys.argv[1:]])
