"""The algorithm's configuration: a frozen dataclass from which the command line is generated."""

import dataclasses
import json
import math
from typing import Any, Literal

from fastsac.typed_fields import LARGEST_FLOAT, require, require_types

Precision = Literal["float32", "tf32", "bf16"]


@dataclasses.dataclass(frozen=True)
class SACConfig:
    """The algorithm (arXiv 1812.05905); the defaults are the paper's."""

    hidden_sizes: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers, of the actor and of each critic."""
    layer_norm: bool = False
    """Layer normalisation before each hidden ReLU, in actor and critics (arXiv 1607.06450)."""
    num_critics: int = 2
    """Q networks in the ensemble."""
    critic_reduction: Literal["min", "mean"] = "min"
    """What targets and policy take of the critics: clipped double Q's minimum, or the mean."""
    num_atoms: int | None = None
    """Atoms of a critic's distribution of returns (C51, arXiv 1707.06887); None is a plain Q."""
    value_range: tuple[float, float] | None = None
    """Least and greatest atom; None is 0 to 1 / (1 - gamma) and a tenth more on either side."""
    learning_rate: float = 3e-4
    """Adam's step size for actor, critics and temperature."""
    weight_decay: float = 0.0
    """Of actor and critics, decoupled from the gradient (AdamW, arXiv 1711.05101)."""
    gamma: float = 0.99
    """Discount per control step."""
    tau: float = 0.005
    """Share by which the target critics move towards the critics per update."""
    temperature: float | None = None
    """Fixed temperature alpha (SAC v1); None learns it (SAC v2)."""
    initial_temperature: float = 1.0
    """Where a learned temperature starts."""
    target_entropy_per_dim: float = -1.0
    """Entropy target of a learned temperature, in nats per action dimension; the paper's is -1."""
    initial_std: float | None = None
    """The new policy's standard deviation before its tanh, with mean 0; None: random weights."""
    log_std_min: float = -20.0
    """Lower clamp of the policy's log standard deviation."""
    log_std_max: float = 2.0
    """Upper clamp of the policy's log standard deviation."""
    normalize_obs: bool = False
    """Standardise observations by their running mean and variance."""
    policy_delay: int = 1
    """Critic updates per update of actor and temperature (TD3, arXiv 1802.09477)."""
    precision: Precision = "float32"
    """Of the networks' matmuls and what they return; the rest, weights included, is float32."""
    compile_updates: bool = False
    """On a CPU, compile an update to one program, in C++; not in float64, nor with ranks."""

    def __post_init__(self) -> None:
        require_types(self)
        require(
            len(self.hidden_sizes) > 0 and min(self.hidden_sizes) > 0,
            f"--hidden-sizes must be positive widths, got {self.hidden_sizes}",
        )
        require(self.num_critics >= 1, f"--num-critics must be at least 1, got {self.num_critics}")
        require(
            self.policy_delay >= 1, f"--policy-delay must be at least 1, got {self.policy_delay}"
        )
        require(0 <= self.gamma < 1, f"--gamma must be in [0, 1), got {self.gamma}")
        require(0 < self.tau <= 1, f"--tau must be in (0, 1], got {self.tau}")
        for flag in ("learning_rate", "initial_temperature", "initial_std"):
            value = getattr(self, flag)
            name = flag.replace("_", "-")
            require(
                value is None or value > 0,
                f"--{name} must be positive, got {value}",
            )
        require(
            self.weight_decay >= 0,
            f"--weight-decay must be non-negative, got {self.weight_decay}",
        )
        require(
            self.num_atoms is None or self.num_atoms >= 2,
            f"--num-atoms must be at least 2, got {self.num_atoms}",
        )
        require(
            self.value_range is None or self.num_atoms is not None,
            "--value-range is of the atoms of --num-atoms, which is not given",
        )
        require(
            self.value_range is None or self.value_range[0] < self.value_range[1],
            f"--value-range must be a lower number and a higher one, got {self.value_range}",
        )
        if self.num_atoms is not None:
            low, high = self.support
            require(
                1e-6 * max(-low, high) < (high - low) / (self.num_atoms - 1) < LARGEST_FLOAT,
                f"--num-atoms {self.num_atoms} from {low:g} to {high:g} (--value-range, or by "
                "--gamma) are closer or wider than float32 can tell apart",
            )
        require(
            self.temperature is None or self.temperature >= 0,
            f"--temperature must be non-negative, got {self.temperature}",
        )
        require(
            self.temperature is None or self.target_entropy_per_dim == -1,
            "--target-entropy-per-dim contradicts --temperature: a fixed temperature has no "
            "entropy target",
        )
        require(
            self.initial_std is None
            or self.log_std_min < math.log(self.initial_std) < self.log_std_max,
            f"--initial-std {self.initial_std} must lie between the exponentials of --log-std-min "
            f"{self.log_std_min} and --log-std-max {self.log_std_max}: beyond, nothing is learned",
        )
        require(
            self.log_std_min < self.log_std_max,
            f"--log-std-min {self.log_std_min} must lie below --log-std-max {self.log_std_max}",
        )

    @property
    def support(self) -> tuple[float, float]:
        """The least and the greatest atom."""
        if self.value_range is not None:
            return self.value_range
        longest = 1 / (1 - self.gamma)  # the return of a reward of 1 for ever
        # The tenths are for the entropy's part.
        return -0.1 * longest, 1.1 * longest


def sac_from_json(text: str) -> SACConfig:
    """Returns the algorithm of a run's configuration, as ``training.config.to_json`` writes it.

    Raises:
        KeyError, TypeError, ValueError: it is no configuration of this version.
        ConfigError: a field is out of range.
    """
    fields: dict[str, Any] = json.loads(text)["sac"]
    tuples: dict[str, Any] = {k: tuple(v) for k, v in fields.items() if isinstance(v, list)}
    return SACConfig(**fields | tuples)
