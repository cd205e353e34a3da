"""The checks of ``fastsac doctor --gpu``: functions of a device that raise where they fail.

Each returns what it found. What runs on a GPU runs on a CPU too, where tests plant faults in it:
the kernels in Triton's interpreter, and updates that are not captured.
"""

import copy
import dataclasses
import importlib
import importlib.metadata
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastsac.envs import make
from fastsac.envs.compilation_cache import use_compilation_cache
from fastsac.envs.devices import has_warp, jax_device, torch_device
from fastsac.envs.dlpack import to_jax, to_torch
from fastsac.kernels import AdamState, Atoms, NormReLU, Transitions
from fastsac.learner.cuda_graph import GraphedCall
from fastsac.learner.replay import ReplayBuffer, free_bytes
from fastsac.learner.sac import SAC
from fastsac.training.config import TrainConfig
from fastsac.training.interruption import StopSignals
from fastsac.training.loop import train_loop
from fastsac.training.memory_plan import memory_plan
from fastsac.training.presets import preset_config
from fastsac.training.run import TrainingRun

RESULT = "fastsac doctor: "  # before each result on a checking process's output

_PACKAGES = ("triton", "jax", "mujoco", "mujoco-mjx")
_LARGE, _SMALL = "humanoid_walk", "pendulum_swingup"  # the latter compiles in seconds
# Of results of order 1; a kernel's are off by 1e-6 to 1e-5, and 1% of one is far more.
_TOLERANCE = 2e-4
_BATCH, _UPDATES = 64, 6  # of which two come before the capture
# Weights after updates that each move them by 3e-3: one that is missing shows.
_WEIGHTS_TOLERANCE = 1e-4


class Check(NamedTuple):
    """A line of the report.

    Attributes:
        name: what is checked.
        function: returns what it found, or raises.
        advice: what to do where it fails.
    """

    name: str
    function: Callable[[torch.device], str]
    advice: str


def versions(device: torch.device) -> str:
    """The GPU, its driver and the packages; fails where one is missing."""
    found = [f"torch {torch.__version__} (CUDA {torch.version.cuda})"]
    found += [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    if device.type != "cuda":
        return ", ".join(found)
    major, minor = torch.cuda.get_device_capability(device)
    name = torch.cuda.get_device_name(device)
    return ", ".join([f"{name} (sm_{major}{minor})", f"driver {_driver()}", *found])


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown, as nvidia-smi does not answer"
    return done.stdout.split("\n")[0].strip()


def jax_is_there(device: torch.device) -> str:
    """The default device of jax is torch's."""
    found = torch_device(jax_device())
    _require(found == device, f"jax runs on {found}, torch on {device}")
    return f"jax and torch are both on {device}"


def dlpack(device: torch.device) -> str:
    """Tensors pass from torch to jax and back with nothing copied."""
    tensor = torch.arange(1024, dtype=torch.float32, device=device)
    there = to_jax(tensor)
    copied = "the memory was copied from {} to {}"
    same = there.unsafe_buffer_pointer() == tensor.data_ptr()
    _require(same, copied.format("torch", "jax"))
    made = there + 1  # jax's own memory
    back = to_torch(made)
    _require(back.data_ptr() == made.unsafe_buffer_pointer(), copied.format("jax", "torch"))
    _require(torch.equal(back, tensor + 1), "jax computed other numbers than torch")
    return "equal pointers from torch to jax and from jax to torch"


def memory(device: torch.device) -> str:
    """The fast preset's plan fits into the memory that is free."""
    config = preset_config(_LARGE, "fast", device=str(device))
    env = make(config.task, config.num_envs, config.engine, device)
    try:
        plan = memory_plan(config, env.obs_dim, env.action_dim, env.engine.reset_bytes)
    finally:
        env.close()
    plan.require(config, device)
    needed, free = plan.total / 1e9, free_bytes(device) / 1e9
    return f"{_LARGE} --preset fast plans {needed:.1f} GB, {free:.1f} GB are free"


def kernel(name: str, device: torch.device, batch: int = 1023) -> str:
    """A kernel and its gradient agree with the formulas in torch."""
    module = importlib.import_module(f"fastsac.kernels.{name}")
    worst = 0.0
    for ending, arguments in kernel_calls(device, batch)[name].items():
        pair = [getattr(module, f"{kind}{ending}") for kind in ("fused", "reference")]
        got, wanted = (_outputs(function, arguments) for function in pair)
        for ours, theirs in zip(got, wanted, strict=True):
            error = _error(ours, theirs)
            where = f"fused{ending} is off by {error:.1e} of {tuple(theirs.shape)} numbers"
            _require(error <= _TOLERANCE, where)
            worst = max(worst, error)
    return f"agrees with torch {_within(worst)}"


def kernel_calls(device: torch.device, batch: int) -> dict[str, dict[str, tuple[Any, ...]]]:
    """Returns by kernel, and by the ending of its functions' names, what they are called with."""
    draw = partial(torch.randn, generator=torch.Generator(device).manual_seed(0), device=device)
    scalar = partial(torch.tensor, device=device)
    critics, obs, actions, weights = 2, 17, 6, 8 * batch
    reward, log_prob, weighed = draw(3, batch)
    terminated = (draw(batch) > 1).float()
    soft = (scalar(0.2), scalar(0.99))
    transitions = Transitions(reward, terminated, log_prob, *soft)
    atoms = Atoms(101, -10.0, 10.0)
    logits, next_logits = draw(2, critics, batch, atoms.num)
    loss = (logits, next_logits, transitions, atoms, "min")
    gaussian, clamps = tuple(draw(3, batch, actions)), (-5.0, 2.0)
    parameter, gradient, target = draw(3, weights)
    adam = (parameter, gradient, AdamState.of(parameter), scalar(0.1), 0.1, target, scalar(0.05))
    hidden = draw(critics, batch, obs)
    index = (draw(batch).abs() * 100).long() % 64
    statistics = draw(obs), draw(obs).square() + 0.1
    return {
        "adam_polyak": {"": (*adam, True)},
        "categorical_td_loss": {"": loss, "_gradient": (draw(critics, batch), *loss)},
        "norm_relu": {
            "": (draw(critics, batch, obs), draw(critics, 1, obs), True),
            "_gradient": (hidden, NormReLU(draw(critics, batch, obs), hidden[..., :1].exp())),
        },
        "polyak": {"": (parameter, target, scalar(0.05))},
        "replay_gather": {"": (draw(64, 2 * obs + actions + 4), index, actions, *statistics)},
        "soft_td_target": {
            "": (reward, terminated, draw(critics, batch), log_prob, *soft, "min"),
        },
        "tanh_gaussian": {
            "": (*gaussian, *clamps),
            "_gradient": (*gaussian, draw(batch, actions), weighed, *clamps),
        },
    }


def _outputs(function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[torch.Tensor]:
    """Returns what a function returns and what it leaves in its arguments."""
    own = copy.deepcopy(arguments)
    return [*_tensors(function(*own)), *_tensors(own)]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _tensors(part)


def _error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, relative where numbers are above 1; NaN where one is NaN."""
    got, wanted = got.double().cpu(), wanted.double().cpu()
    return ((got - wanted).abs() / wanted.abs().clamp_min(1)).max().item()


def captured_update(device: torch.device) -> str:
    """Updates in a CUDA graph leave the weights that the same updates leave eagerly."""
    (eager, batch), (captured, own_batch) = _learner(device), _learner(device)
    generators = [captured.generator, own_batch.generator]
    call = GraphedCall(lambda: captured.update(own_batch.sample(_BATCH)), device, generators)
    for _ in range(_UPDATES):
        eager.update(batch.sample(_BATCH))
        call()
    _require(call.captures == (device.type == "cuda"), "the updates were not captured")
    names = ("actor_flat", "critics_flat", "target_flat", "log_alpha")
    error = max(_error(getattr(captured, name), getattr(eager, name)) for name in names)
    differ = f"weights after {_UPDATES} updates differ by {error:.1e}"
    _require(error <= _WEIGHTS_TOLERANCE, differ)
    how = "captured" if call.captures else "on a CPU, where nothing is captured,"
    return f"{_UPDATES} updates {how} and eager ones agree " + _within(error)


def _learner(device: torch.device) -> tuple[SAC, ReplayBuffer]:
    """A small learner of the fast preset and what it learns from, the same each time."""
    sac = dataclasses.replace(
        preset_config(_LARGE, "fast").sac,
        hidden_sizes=(64, 64),
        policy_delay=1,
        learning_rate=3e-3,
    )
    agent, replay = SAC(17, 6, sac, device), ReplayBuffer(1000, 17, 6, device)
    draw = partial(torch.randn, generator=torch.Generator(device).manual_seed(0), device=device)
    obs, next_obs = draw(2, 1000, 17)
    replay.add(obs, draw(1000, 6).tanh(), draw(1000).sigmoid(), draw(1000) > 1.5, next_obs)
    return agent, replay


def compiled_step(engine: str, device: torch.device, num_envs: int = 4096, steps: int = 10) -> str:
    """A GPU engine's compiled step leads where the native engine's does."""
    if engine == "warp" and not has_warp():
        return "warp-lang is not installed, so mjx steps the worlds: pip install 'fastsac[warp]'"
    ours = make(_SMALL, num_envs, engine, device)
    native = make(_SMALL, num_envs, "native", "cpu")
    generator, worst = torch.Generator().manual_seed(0), 0.0
    try:
        ours.reset(seed=0)
        native.reset(seed=0)
        for number in range(1, steps + 1):
            action = torch.rand(num_envs, 1, generator=generator) * 2 - 1
            got, wanted = ours.step(action.to(device)), native.step(action)
            error = _error(got[0], wanted[0])
            _require(error <= _TOLERANCE, f"step {number} differs from C MuJoCo's by {error:.1e}")
            # 0 or 1, so a world at the bound may have the other one.
            odd = (got[1].cpu() - wanted[1]).abs().mean().item()
            _require(odd <= 1e-3, f"the reward of step {number} is another in {odd:.1%} of worlds")
            worst = max(worst, error)
    finally:
        ours.close()
        native.close()
    return f"{steps} steps of {num_envs} pendulums agree with C MuJoCo {_within(worst)}"


class _Loop(TrainingRun):
    """A run that neither logs nor evaluates and ends when it is told to."""

    def advance(self, until: Callable[[], bool]) -> None:
        """Trains until that is true after a vector step, and until the device has done it."""
        self._until, self.finished = until, False
        with StopSignals() as signals:
            train_loop(self.config, self, signals)
        signals.raise_received()
        if self.state.env.device.type == "cuda":
            torch.cuda.synchronize()

    def after_step(self) -> None:
        """Asks whether to end."""
        self.finished = self._until()


def throughput(
    device: torch.device, config: TrainConfig | None = None, seconds: float = 5.0
) -> str:
    """The training loop runs; says how fast."""
    config = config or preset_config(_SMALL, "fast", device=str(device), strict=True)
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(config, run_dir=str(Path(folder) / "run"))
        with _Loop(config) as run:
            state, warm = run.state, 20 * config.updates_per_vector_step
            run.advance(lambda: state.updates >= warm)
            steps, updates, start = state.steps, state.updates, time.monotonic()
            run.advance(lambda: time.monotonic() - start >= seconds)
            taken = time.monotonic() - start
            skipped = int(state.agent.skipped_updates)
            _require(not skipped, f"{skipped} updates were skipped: they were not finite")
            rates = (state.steps - steps) / taken, (state.updates - updates) / taken
    return (
        f"{rates[0]:,.0f} env steps/s and {rates[1]:,.0f} updates/s, measured now for {taken:.0f} "
        f"s: {config.task}, {config.num_envs} worlds, batches of {config.batch_size}"
    )


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise AssertionError(sentence)


def _within(error: float) -> str:
    return f"within {error:.0e}" if error else "to the last bit"


_KERNELS = tuple(kernel_calls(torch.device("cpu"), 1))
_REPORT = "open an issue with this report; until then --device cpu --engine native trains"
CHECKS = (
    Check("versions", versions, "install what is missing: pip install 'fastsac[cuda]'"),
    Check("jax", jax_is_there, "pip install 'fastsac[cuda]'; unset JAX_PLATFORMS"),
    Check(
        "memory",
        memory,
        "end what else uses the GPU (nvidia-smi), or lower --num-envs and --replay-capacity",
    ),
    Check("dlpack", dlpack, "take the versions of torch and jax in constraints.txt"),
    *(Check(f"kernel {k}", partial(kernel, k), _REPORT) for k in _KERNELS),
    Check("captured update", captured_update, _REPORT),
    *(Check(f"{e} step", partial(compiled_step, e), _REPORT) for e in ("warp", "mjx")),
    Check("throughput", throughput, _REPORT),
)


def run_from(first: int, kind: str = "cuda") -> None:
    """Prints a line of JSON for each check from one on, until one leaves the GPU unusable.

    For a process of its own: doctor starts another one for what is left.
    """
    use_compilation_cache()
    on_gpu = kind == "cuda"
    device = torch.device(kind, torch.cuda.current_device()) if on_gpu else torch.device(kind)
    for check in CHECKS[first:]:
        try:
            passed, sentence = True, check.function(device)
        except Exception as error:
            passed, sentence = False, f"{type(error).__name__}: {error}"
        print(RESULT + json.dumps([passed, " ".join(sentence.split())]), flush=True)
        if on_gpu and not passed:
            torch.cuda.synchronize()  # raises where an error stays with the process
