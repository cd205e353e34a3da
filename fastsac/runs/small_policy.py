"""Small policy files: half precision or less, and nothing in them that could be executed.

A file is a line of text with the format and the SHA-256 of the rest, a line of JSON, and numbers,
little-endian: of each layer the weights (in, out), in float16 or in int8 with what each column
(out,) of them is multiplied by, and the biases (out,); then, if observations are normalised, their
mean and variance (obs_dim,) and their count. Those are float32, the count float64.
"""

import hashlib
import io
import itertools
import json
import math
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastsac.errors import CheckpointError, ConfigError, DamagedError
from fastsac.learner.config import SACConfig
from fastsac.learner.policy import Policy
from fastsac.runs.checkpoint_file import MISFITS

SUFFIX = ".policy"
_MAGIC = b"fastsac policy"
_FORMAT = b"1"
_SIZES = ("task", "obs_dim", "action_dim")
_NETWORK = ("hidden_sizes", "layer_norm", "normalize_obs")  # what the actor is built by
# As many of the largest layers are int8 as that takes: of preset fast's actors one, of dog's two.
# humanoid_walk returned 937.2 in 20 episodes, 937.4 so, 928.6 with all layers in int8.
_MOST_BYTES = 500_000
_LARGEST = 127  # of int8, the same on both sides
_BYTE, _HALF, _FLOAT, _DOUBLE = (np.dtype(name) for name in ("i1", "<f2", "<f4", "<f8"))


def is_small(file: Path) -> bool:
    """Whether a file says that it is one."""
    if not os.path.isfile(file):
        return False
    try:
        with file.open("rb") as opened:
            return opened.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def encode(policy: Policy) -> bytes:
    """Returns a policy as such a file.

    A weight is off by half a unit of float16, or by half a 127th of the most in its column.

    Raises:
        CheckpointError: its weights are no numbers, or too large.
    """
    layers = [
        [parameter[0].cpu().numpy() for parameter in layer.parameters()]
        for layer in policy.network.actor.mlp.layers
    ]
    in_bytes = _layers_in_bytes([weight.shape for weight, _ in layers])
    about = {name: getattr(policy, name) for name in _SIZES} | {"int8": sorted(in_bytes)}
    about |= {name: getattr(policy.config, name) for name in _NETWORK}
    parts = [json.dumps(about).encode() + b"\n"]
    for number, (weight, bias) in enumerate(layers):
        with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused
            numbers = _rounded(weight) if number in in_bytes else [weight.astype(_HALF)]
        numbers.append(bias[0].astype(_FLOAT))
        if not all(np.isfinite(array).all() for array in numbers):
            raise CheckpointError(f"the policy of {policy.task} has weights that are no numbers")
        parts += [array.tobytes() for array in numbers]
    if norm := policy.network.normalizer:
        parts += [x.cpu().numpy().astype(_FLOAT).tobytes() for x in (norm.mean, norm.var)]
        parts.append(norm.count.cpu().numpy().astype(_DOUBLE).tobytes())
    body = b"".join(parts)
    return b"%s %s %s\n" % (_MAGIC, _FORMAT, hashlib.sha256(body).hexdigest().encode()) + body


def _layers_in_bytes(shapes: Sequence[tuple[int, ...]]) -> set[int]:
    """Returns the numbers of the layers, of so many inputs and outputs, whose weights are int8."""
    chosen: set[int] = set()
    for number in sorted(range(len(shapes)), key=lambda i: math.prod(shapes[i]), reverse=True):
        if _bytes_of(shapes, chosen) <= _MOST_BYTES - 10_000:  # for what else is in the file
            break
        chosen.add(number)
    return chosen


def _bytes_of(shapes: Iterable[tuple[int, ...]], in_bytes: Collection[int]) -> int:
    """Returns how many bytes the layers take."""
    return sum(
        i * o + 8 * o if number in in_bytes else 2 * i * o + 4 * o
        for number, (i, o) in enumerate(shapes)
    )


def _rounded(weight: np.ndarray) -> list[np.ndarray]:
    """Returns weights (in, out) in int8, and what their columns (out,) are multiplied by."""
    scale = (np.abs(weight).max(axis=0) / _LARGEST).astype(_FLOAT)
    whole = np.rint(weight / np.where(scale > 0, scale, 1))
    if np.isfinite(whole).all():
        return [whole.clip(-_LARGEST, _LARGEST).astype(_BYTE), scale]
    return [whole]


def load(file: Path, device: str | torch.device = "cpu") -> Policy:
    """Reads a small policy file.

    Raises:
        DamagedError: cut off, or with other bits.
        CheckpointError: missing, not readable, of another format, or it does not fit itself.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from error
    return decode(content, file, device)


def decode(
    content: bytes, file: str | Path = "what was encoded", device: str | torch.device = "cpu"
) -> Policy:
    """Returns the policy of a file's content; raises what ``load`` does, with the file's name."""
    head, _, body = content.partition(b"\n")
    words = head.removeprefix(_MAGIC).split()
    if len(words) != 2 or head != b" ".join((_MAGIC, *words)):
        raise DamagedError(f"{file} is truncated or not a fastsac policy")
    if words[0] != _FORMAT:
        found, ours = words[0].decode(errors="replace"), _FORMAT.decode()
        raise CheckpointError(f"{file} has policy format {found}, this version reads {ours}")
    if hashlib.sha256(body).hexdigest().encode() != words[1]:
        raise DamagedError(f"{file} is truncated or damaged: its checksum differs")
    try:
        return _decoded(body, device)
    except (ConfigError, *MISFITS) as error:  # whoever wrote it knew our checksum
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{file} is not a fastsac policy: {reason}") from error


def _decoded(body: bytes, device: str | torch.device) -> Policy:
    line, _, numbers = body.partition(b"\n")
    about: dict[str, Any] = json.loads(line)
    task, obs_dim, action_dim = (about[name] for name in _SIZES)
    settings = {name: about[name] for name in _NETWORK}
    config = SACConfig(**settings | {"hidden_sizes": tuple(settings["hidden_sizes"])})
    sizes = (obs_dim, *config.hidden_sizes, 2 * action_dim)
    if type(task) is not str or any(type(size) is not int or size < 1 for size in sizes):
        raise ValueError(f"it is of {task!r} with layers of {sizes}")
    shapes, in_bytes = list(itertools.pairwise(sizes)), set(about["int8"])
    expected = _bytes_of(shapes, in_bytes) + config.normalize_obs * (8 * obs_dim + 8)
    if len(numbers) != expected:  # before memory is taken for what it says
        raise ValueError(f"{len(numbers)} bytes of numbers instead of {expected}")
    rest = io.BytesIO(numbers)
    flat: list[np.ndarray] = []
    for number, (inputs, outputs) in enumerate(shapes):
        small = number in in_bytes
        weight = _taken(rest, _BYTE if small else _HALF, inputs * outputs).astype(np.float32)
        if small:
            weight = (weight.reshape(inputs, outputs) * _taken(rest, _FLOAT, outputs)).ravel()
        flat += [weight, _taken(rest, _FLOAT, outputs)]
    normalizer = None
    if config.normalize_obs:
        mean, var = (torch.tensor(_taken(rest, _FLOAT, obs_dim)) for _ in range(2))
        count = torch.tensor(_taken(rest, _DOUBLE, 1)[0], dtype=torch.float64)
        normalizer = {"mean": mean, "var": var, "count": count}
    weights = torch.from_numpy(np.concatenate(flat))
    return Policy(task, obs_dim, action_dim, config, weights, normalizer, device)


def _taken(rest: io.BytesIO, dtype: np.dtype, count: int) -> np.ndarray:
    """Reads the next numbers."""
    array = np.frombuffer(rest.read(dtype.itemsize * count), dtype)
    return array.astype(dtype.newbyteorder("="))
