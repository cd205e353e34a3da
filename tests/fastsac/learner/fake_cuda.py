"""The learner on a GPU that is not there: torch's fake CUDA tensors, and launches recorded.

Fake tensors have shape, dtype and device and no numbers, so that every operation of the path is
dispatched as a GPU's would be. What torch's build for CPUs lacks beneath them is stood in for here:
the device's guard, its generators and its free memory. Capturing is not: a graph's function simply
runs. As a program it prints, in JSON, what ``cases`` and faults did and what Triton made of the
launches; it needs a process of its own, without TRITON_INTERPRET.
"""

import ctypes
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
import triton
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastsac.learner.config import SACConfig
from fastsac.learner.cuda_graph import GraphedCall
from fastsac.learner.n_step import NStepReturns
from fastsac.learner.replay import ReplayBuffer
from fastsac.learner.sac import SAC
from fastsac.training.episodes import EpisodeReturns
from fastsac.training.presets import preset_config
from tests.fastsac.learner.fake_faults import FAULTS, without_kernels
from tests.kernels import offline


class _OnACpu:
    """A generator of any device: one on the CPU, whose numbers nobody looks at."""

    kind = torch.Generator

    def __new__(cls, device="cpu"):
        return cls.kind("cpu")


def stand_in():
    """Gives this process what fake CUDA tensors need of a device."""
    # c10 keeps a guard a device type (c10/core/impl/DeviceGuardImplInterface.h); that of Meta, for
    # tensors without numbers, does nothing.
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    name = "_ZN3c104impl26device_guard_impl_registryE"
    guards = (ctypes.c_void_p * 20).in_dll(library, name)
    cuda, meta = 1, 14  # c10/core/DeviceType.h
    assert guards[meta]
    guards[cuda] = guards[cuda] or guards[meta]
    torch.Generator = _OnACpu
    torch.cuda.mem_get_info = lambda device=None: (1 << 60, 1 << 60)
    torch.nn.Module.to = _module_to
    FakeTensorMode.__deepcopy__ = lambda self, memo: self


def _module_to(self, device, dtype=None):
    """Module.to, which would put another object where a parameter was: fakes forbid that."""
    for module in self.modules():
        for p in module._parameters.values():
            moved = p.detach().to(device, dtype)
            p.data, p.fake_device = moved, moved.fake_device
        module._buffers |= {name: b.to(device) for name, b in module._buffers.items()}
    return self


# Of double precision are the sampler's index and the normaliser's count of observations.
_FLOAT64 = {
    "learn": {"aten::rand", "aten::mul", "aten::_to_copy"},
    "sample": {"aten::rand", "aten::mul", "aten::_to_copy"},
    "observe": {"aten::add", "aten::div", "aten::reciprocal", "aten::mul", "aten::_to_copy"}
    | {"aten::where", "aten::copy_"},
}
_READS = {f"aten::{x}" for x in ("_local_scalar_dense", "nonzero", "masked_select", "equal")}
_ALLOCATES = {f"aten::{x}" for x in ("empty", "empty_like", "new_empty", "empty_strided")}
# What has the dtype of the network's weights, bfloat16 where that was asked for.
_HALF = torch.bfloat16
_AS_WEIGHTS = {
    "norm_relu._forward": ("product", "bias", "activated", "normalized"),
    "norm_relu._backward": ("gradient", "normalized", "by_sums"),
}
# Of arguments that need not be contiguous, what their rows' distance is handed over as.
_STRIDE_OF = {"mean": "mean_row", "log_std": "log_std_row", "next_q": "member_stride"}


class Watch(TorchDispatchMode):
    """Counts what each part of a vector step launches, and complains of what a GPU would not bear.

    Attributes:
        complaints: sentences.
        torch_launches: operations that launch something, by (part, whether in a graph).
        triton_launches: likewise.
        matmuls: (dtype, float32's precision) of the products.
    """

    def __init__(self, launches):
        super().__init__()
        self.complaints, self.matmuls = [], set()
        self.torch_launches, self.triton_launches = Counter(), Counter()
        self._launches, self._part, self._graph = launches, "", None
        # Storages: of a call made by the graph, of a call read from outside, of each graph's first.
        self._made, self._read, self._memory = set(), {}, {}
        self._kept = []  # so that no address is used again

    @contextmanager
    def part(self, name):
        self._part, before = name, len(self._launches)
        with self:
            yield
        outside = len(self._launches) - before - self.triton_launches.pop("inside", 0)
        self.triton_launches[name, False] += outside
        for launch in self._launches[before:]:
            self.complaints += [f"{name}: {x}" for x in _complaints_of(launch)]

    def graphed(self, call):
        """In GraphedCall.__call__'s place."""
        self._graph, self._made, self._read, before = call, set(), {}, len(self._launches)
        outputs = call._function()
        count = len(self._launches) - before
        self.triton_launches[self._part, True] += count
        self.triton_launches["inside"] += count
        for launch in self._launches[before:]:
            self._note_memory(x for x in launch.arguments if isinstance(x, torch.Tensor))
        if self._memory.setdefault(call, self._read).keys() != self._read.keys():
            self._complain("a graph reads other memory than at its last call")
        self._graph = None
        return outputs

    def _complain(self, sentence):
        self.complaints.append(f"{self._part}: {sentence}")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function._schema.name
        if function.namespace != "aten":  # prim.device: a question
            return function(*args, **kwargs)
        if name in _READS:
            self._complain(f"{name} waits for the device")
        taken = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        # In place, and torch has no fake of it.
        result = None if name == "aten::_fused_adamw_" else function(*args, **kwargs)
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        for x in taken + made:
            if x.device.type != "cuda":
                self._complain(f"{name} has a tensor {tuple(x.shape)} on {x.device}")
            elif x.dtype == torch.float64 and not function.is_view:
                if name not in _FLOAT64.get(self._part, ()):
                    self._complain(f"{name} computes in float64")
        if torch.Tag.nondeterministic_seeded in function.tags:
            self._check_generator(name, kwargs.get("generator"))
        if name in ("aten::bmm", "aten::baddbmm"):
            precision = torch.get_float32_matmul_precision()
            self.matmuls.add((str(taken[-1].dtype).removeprefix("torch."), precision))
        if self._graph:
            self._note_memory(taken)
            if not function.is_view:
                self._made |= {x.untyped_storage()._cdata for x in made} - self._read.keys()
                self._kept += made
        if not function.is_view and name not in _ALLOCATES:
            self.torch_launches[self._part, self._graph is not None] += 1
        return result

    def _check_generator(self, name, generator):
        if generator is None:
            self._complain(f"{name} draws from the global generator")
        elif self._graph and generator._cdata not in [g._cdata for g in self._graph._generators]:
            self._complain(f"{name} draws from a generator that the graph does not register")

    def _note_memory(self, tensors):
        for x in tensors:
            storage = x.untyped_storage()
            if storage._cdata not in self._made:
                self._read[storage._cdata] = storage


def _dtypes(bound):
    return {x.dtype for x in bound.values() if isinstance(x, torch.Tensor)}


def _complaints_of(launch):
    """What a kernel was given and does not take."""
    bound = launch.bound
    for name, value in bound.items():
        if isinstance(value, torch.Tensor):
            what = f"{launch.name}: {name} {tuple(value.shape)}"
            wanted = torch.int64 if name == "index" else torch.float32
            if name in _AS_WEIGHTS.get(launch.name, ()) and _HALF in _dtypes(bound):
                wanted = _HALF
            if name == "rstd" and not (bound["NORMALIZE"] and bound.get("SAVE", True)):
                continue  # not written, whatever stands there
            if value.device.type != "cuda":
                yield f"{what} is on {value.device}"
            if value.dtype != wanted:
                yield f"{what} is {value.dtype}"
            rows = value.dim() > 1 and value.stride(-1) == 1 and _STRIDE_OF.get(name)
            if not value.is_contiguous() and not (rows and bound.get(rows) == value.stride(0)):
                yield f"{what} has strides {value.stride()}"
        elif isinstance(value, int) and not -(2**31) <= value < 2**31:
            yield f"{launch.name}: {name} = {value} is no int32"


class Learning:
    """A run's learner and what feeds it, as fake CUDA tensors; the worlds' part is made up.

    Args:
        config: the run's, of a task with observations (B, 67) and actions (B, 21).
        watch: what looks on.
    """

    obs_dim, action_dim = 67, 21

    def __init__(self, config, watch):
        self.config, self.watch = config, watch
        sizes = (self.obs_dim, self.action_dim)
        self.agent = SAC(*sizes, config.sac, "cuda")
        self.replay = ReplayBuffer(config.replay_capacity, *sizes, "cuda")
        self.returns = NStepReturns(config.n_step, config.sac.gamma)
        self.episodes = EpisodeReturns(self.zeros(torch.int64))
        self.obs = self.randn(self.obs_dim)

    def zeros(self, dtype):
        return torch.zeros(self.config.num_envs, dtype=dtype, device="cuda")

    def randn(self, *shape):
        return torch.randn(self.config.num_envs, *shape, device="cuda")

    def vector_step(self):
        """As train_loop's; returns what came out, by name."""
        part, config = self.watch.part, self.config
        with part("observe"):
            self.agent.observe(self.obs)
        with part("act"):
            action = self.agent.act(self.obs)
        metrics = {}
        if len(self.replay):
            with part("learn"):
                updates = config.updates_per_vector_step
                metrics = self.agent.learn(self.replay, config.batch_size, updates)
        obs, final_obs, reward = self.randn(self.obs_dim), self.randn(self.obs_dim), self.randn()
        terminated, ends, valid = (self.zeros(torch.bool) for _ in range(3))
        step = (self.obs, action, reward, terminated, ends, final_obs, valid)
        with part("n_step"):
            batch = self.returns.add(*step)
        if batch is not None:
            with part("add"):
                self.replay.add(*batch)
        with part("episodes"):
            self.episodes.add(reward, ends, valid)
        self.obs = obs
        return {"policy_action": action, **metrics}

    def beside(self):
        """What a program of one's own calls: a batch, an update, the policy's mode."""
        with self.watch.part("sample"):
            batch = self.replay.sample(self.config.batch_size)
        with self.watch.part("update"):
            metrics = self.agent.update(batch)
        with self.watch.part("mode"):
            mode = self.agent.act(self.obs, deterministic=True)
        with self.watch.part("log"):
            skipped, mean = self.agent.skipped_in_a_row, self.episodes.take_mean()
        return batch._asdict() | metrics | {"mode": mode, "skipped": skipped, "mean": mean}


def report_of(config, fault=None):
    """What a configuration's vector steps launch and make; with a fault, what is complained of.

    Returns:
        The report, of the graphs' second call on, and the launches.
    """
    with offline.recorded() as launches, FakeTensorMode(allow_non_fake_inputs=False):
        watch, made = Watch(launches), {}
        learning = Learning(config, watch)
        with patch.object(GraphedCall, "__call__", lambda call: watch.graphed(call)):
            try:
                with fault(learning) if fault else nullcontext():
                    for _ in range(config.n_step + 1):
                        learning.vector_step()
                    watch.torch_launches.clear(), watch.triton_launches.clear()
                    made = learning.vector_step() | learning.beside()
            except Exception as error:
                if not fault:
                    raise
                watch.complaints.append(f"{type(error).__name__}: {error}")
    made_of = {
        name: [str(x.dtype).removeprefix("torch."), str(x.device), *x.shape]
        for name, x in made.items()
    }
    for name, x in made.items():
        if not x.is_contiguous():
            watch.complaints.append(f"{name} has strides {x.stride()}")
    report = {"complaints": watch.complaints, "matmuls": sorted(watch.matmuls), "made": made_of}
    for kind in ("torch", "triton"):
        for where, inside in (("outside", False), ("inside", True)):
            counts = getattr(watch, f"{kind}_launches").items()
            report[f"{kind} {where}"] = {p: n for (p, at), n in counts if at == inside and n}
    return report, launches


def cases():
    """Configurations by name; an update's launches are the same however many of them there are."""
    humanoid = partial(preset_config, "humanoid_walk")
    fast = humanoid("fast", updates_per_step=4)
    # Beside what those have: min of the critics' distributions, another delay, no entropy target.
    sac = dict(num_critics=3, num_atoms=51, temperature=0.1, policy_delay=3, layer_norm=True)
    return {
        "seed": humanoid("seed"),
        "fast": fast,
        "fast, bf16": replace(fast, sac=replace(fast.sac, precision="bf16")),
        "other": humanoid("seed", num_envs=64, updates_per_step=6, sac=SACConfig(**sac)),
    }


FAULTY = preset_config("humanoid_walk", num_envs=8, updates_per_step=1, batch_size=64)


def compiled(launches):
    """Compiles each distinct launch for an H100; returns what they are and how they load."""
    jobs = {source.hash(): (launch, source) for launch in launches if (source := launch.source)}

    def job(item):
        launch, source = item
        asm = triton.compile(source, offline.TARGET).asm
        loads = [x for x in asm["ptx"].splitlines() if "ld.global" in x]
        return {
            "kernel": launch.name,
            "sizes": {k: v for k, v in launch.bound.items() if isinstance(v, int)},
            "bytes": len(asm["cubin"]),
            "loads": len(loads),
            "wide_loads": sum(".v4." in x for x in loads),
        }

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(job, jobs.values()))


def main():
    stand_in()
    reports, launches = {}, []
    for name, config in cases().items():
        reports[name], more = report_of(config)
        launches += more
    faults = {
        name: report_of(FAULTY, fault)[0]["complaints"] for name, (fault, _) in FAULTS.items()
    }
    references = report_of(cases()["fast"], without_kernels)[0]
    kernels = compiled(launches)
    report = {"cases": reports, "faults": faults, "references": references, "kernels": kernels}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
