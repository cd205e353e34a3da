"""A trained policy as a file: ONNX or torch.export's .pt2, which run without fastsac, or small."""

import copy
import importlib
import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from fastsac import __version__
from fastsac.envs.registry import find
from fastsac.envs.suite import load_suite
from fastsac.errors import ConfigError, RunError
from fastsac.learner.policy import Policy
from fastsac.runs import small_policy
from fastsac.runs.atomic_write import require_place, write_atomically
from fastsac.runs.policy_file import directory_of, load_policy
from fastsac.runs.small_policy import SUFFIX
from fastsac.training.task_of_run import task_of

Function = Callable[[torch.Tensor], torch.Tensor]

_BATCH = ({0: torch.export.Dim("batch")},)
_METADATA = "metadata.json"  # in a .pt2
# A right file rounds otherwise than torch: by some units of float32 in the action, and before the
# tanh by a few times what torch itself is off, which grows with observations and weights.
_TOLERANCE, _ROUNDINGS = 1e-6, 8
_EXTREMES = (1e3, 1e6)  # times as far off as usual observations


def export_policy(run: str | Path, output: Path) -> tuple[float, float]:
    """Writes a trained policy, its normaliser and tanh included, and checks what it writes.

    The file maps "obs" (batch, obs_dim) float32 to "action" (batch, A) float32 in [-1, 1], for any
    batch. It appears whole and checked, or not at all. Its metadata, all strings, say what -1 and 1
    stand for; numbers in a row are separated by spaces. A .pt2 has them as metadata.json among
    torch.export's extra files. A .policy is small and for load_policy: its weights are rounded.

    Args:
        run: as load_policy takes it.
        output: the .onnx, .pt2 (torch.export.load) or .policy to write.

    Returns:
        The largest difference of an action from the policy's in torch: for observations like
        those of the training (standard normal without a normaliser), and for ones up to a million
        times as far off.

    Raises:
        UserError: no usable checkpoint, nowhere to write, a package is missing, or the file does
            not do what the policy does.
        UnknownTask: the policy is of a task that is not known here.
    """
    if output.suffix not in (*_KINDS, SUFFIX):
        raise ConfigError(f"-o must end in .onnx, .pt2 or {SUFFIX}, got {output}")
    require_place(output)
    if output.suffix == ".onnx":
        _require_onnx()
    policy = load_policy(run)
    if output.suffix == SUFFIX:
        data = small_policy.encode(policy)
        differences = _check(policy, small_policy.decode(data), output, slack=math.inf)
    else:
        encode, decode = _KINDS[output.suffix]
        with _quiet(), torch.device("cpu"):  # torch.export follows torch's default
            example = torch.zeros((2, policy.obs_dim), dtype=torch.float32)
            data = encode(policy.network, example, _metadata(policy, run))
            differences = _check(policy, decode(data), output)
    try:
        write_atomically(output, data)
    except OSError as error:
        raise RunError(str(error)) from error
    return differences


def _require_onnx() -> None:
    try:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise RunError(f"an .onnx needs {error.name}: pip install 'fastsac[export]'") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides what torch says of its own affairs: torchvision's absence, a deprecated name."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
            yield
    finally:
        log.setLevel(level)


def _metadata(policy: Policy, run: str | Path) -> dict[str, str]:
    """Returns what it takes to drive dm_control with the policy."""
    with task_of(directory_of(run), policy.task):
        task = find(policy.task)
        suite = load_suite(task)
    return {
        "fastsac_version": __version__,
        "task": task.full_name,
        "domain": task.domain,  # of dm_control.suite.load(domain, name)
        "name": task.name,
        "obs_dim": str(policy.obs_dim),
        "action_dim": str(policy.action_dim),
        "action_low": " ".join(map(str, suite.action_low.tolist())),
        "action_high": " ".join(map(str, suite.action_high.tolist())),
        "control_timestep": str(suite.control_timestep),  # s
    }


def _to_onnx(network: torch.nn.Module, example: torch.Tensor, metadata: dict[str, str]) -> bytes:
    program = torch.onnx.export(
        network, (example,), dynamic_shapes=_BATCH,
        input_names=["obs"], output_names=["action"], verbose=False,
    )  # fmt: skip
    assert program is not None
    program.model.metadata_props.update(metadata)
    return program.model_proto.SerializeToString()


def _from_onnx(data: bytes) -> Function:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda obs: torch.from_numpy(session.run(["action"], {"obs": obs.numpy()})[0])


def _to_pt2(network: torch.nn.Module, example: torch.Tensor, metadata: dict[str, str]) -> bytes:
    file, network = io.BytesIO(), copy.deepcopy(network)
    for parameter in network.parameters():
        parameter.data = parameter.data.clone()  # no view of one flat tensor, which save warns of
    program = torch.export.export(network, (example,), dynamic_shapes=_BATCH)
    torch.export.save(program, file, extra_files={_METADATA: json.dumps(metadata)})
    return file.getvalue()


def _from_pt2(data: bytes) -> Function:
    return torch.export.load(io.BytesIO(data)).module()


_KINDS = {".onnx": (_to_onnx, _from_onnx), ".pt2": (_to_pt2, _from_pt2)}


def _check(
    policy: Policy, function: Function, output: Path, slack: float | None = None
) -> tuple[float, float]:
    """Returns the largest differences of function's actions from the policy's, as export_policy.

    Raises:
        RunError: an action is further off than roundings put it, or before its tanh than the slack.
    """
    exact = copy.deepcopy(policy.network).double()
    generator = torch.Generator("cpu").manual_seed(0)
    norm, differences = policy.network.normalizer, []
    for scale in (1, *_EXTREMES):
        obs = torch.empty((255, policy.obs_dim), dtype=torch.float32, device="cpu")
        obs = scale * obs.normal_(generator=generator)
        if norm is not None:
            obs = norm.mean + obs * norm.var.sqrt()
        mean = exact.mean(obs.double())
        off = slack or _ROUNDINGS * (policy.network.mean(obs) - mean).abs().max().item()
        low, high = torch.tanh(mean - off) - _TOLERANCE, torch.tanh(mean + off) + _TOLERANCE
        for rows in (slice(None), slice(1)):  # the batch's size is free
            action = function(obs[rows])
            difference = (action - policy.network(obs[rows])).abs().max().item()
            if not ((low[rows] <= action) & (action <= high[rows])).all():  # nor is NaN
                raise RunError(
                    f"{output} was not written: its actions would be {difference:.0e} off"
                )
            differences.append(difference)
    return max(differences[:2]), max(differences[2:])
