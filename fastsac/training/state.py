"""What a training run goes on from: worlds, learner, replay, and what stands between them."""

import dataclasses
import math
import sys
from collections.abc import Iterable
from typing import Any

import torch

from fastsac.envs import VectorEnv, make
from fastsac.errors import ConfigError
from fastsac.learner.exploration import HeldNoise
from fastsac.learner.n_step import NStepReturns
from fastsac.learner.replay import ReplayBuffer
from fastsac.learner.sac import SAC
from fastsac.runs.policy_file import load_policy
from fastsac.seeding import stream_seed
from fastsac.training.config import TrainConfig
from fastsac.training.episodes import EpisodeReturns
from fastsac.training.faults import Faults
from fastsac.training.memory_plan import memory_plan, require_worlds
from fastsac.training.ranks import ALONE, Ranks
from fastsac.training.without_gpu import notice


def resolved(config: TrainConfig, env: VectorEnv) -> TrainConfig:
    """Returns the configuration with what "auto" came to; another choice would not fit a state."""
    engine: Any = env.engine_name
    return dataclasses.replace(config, engine=engine, device=config.device or env.device.type)


class TrainingState:
    """A run between two vector steps, once ``start`` or ``load_state_dict`` was called.

    Args:
        config: the run's.
        ranks: the processes that train together, each with a state of its own.

    Attributes:
        ranks: those.
        env: this process's worlds.
        worlds: how many all processes have.
        agent: the learner.
        replay: its transitions.
        returns: gathers the steps of transitions that are not complete.
        episodes: sums the training episodes' returns.
        obs: (B, obs_dim) what to act on next.
        steps: environment steps so far, of all processes.
        updates: gradient updates so far.
        invalid: () int64 transitions lost to diverged physics and other faults here.
        faults: those of observations and rewards among them.
        learns_from: the environment steps after which updates begin.

    Raises:
        UserError: the configuration cannot be run here.
    """

    def __init__(self, config: TrainConfig, ranks: Ranks = ALONE):
        config.require_updates(ranks.size)
        self._config = config
        self.ranks, self.worlds = ranks, config.num_envs * ranks.size
        seed = self._seed = ranks.seed(config.seed)
        require_worlds(config, ranks.of_machine)
        self.env = make(
            config.task, config.num_envs, config.engine, config.device, seed, config.solver
        )
        obs_dim, action_dim, device = self.env.obs_dim, self.env.action_dim, self.env.device
        engine = self.env.engine
        worlds = engine.reset_bytes if engine.device.type == device.type else 0
        plan = memory_plan(config, obs_dim, action_dim, worlds)
        plan.require(config, device, ranks.of_machine)
        # Before the learner warns of anything.
        if ranks.rank == 0 and (line := notice(config, self.env)):
            print(line, file=sys.stderr, flush=True)
        self.replay = ReplayBuffer(config.replay_capacity, obs_dim, action_dim, device, seed)
        self.agent = SAC(
            obs_dim, action_dim, config.sac, device, config.seed, config.strict, ranks.peers
        )
        self.agent.generator.manual_seed(stream_seed(seed, "policy"))  # all start as one actor
        self.returns = NStepReturns(config.n_step, config.sac.gamma)
        self.steps = self.updates = 0
        self.invalid = torch.zeros((), dtype=torch.int64, device=device)
        self.faults = Faults(config.num_envs, device, self.ranks.rank * config.num_envs)
        self.learns_from = self._learning_starts = config.learning_starts
        self._random = torch.Generator(device).manual_seed(stream_seed(seed, "actions"))
        held = config.num_envs, action_dim, config.noise_steps, device, stream_seed(seed, "noise")
        self._noise = HeldNoise(*held) if config.noise_steps > 1 else None
        shape = config.num_envs, obs_dim
        self.obs = torch.zeros(shape, dtype=torch.float32, device=device)
        clocks = torch.zeros(config.num_envs, dtype=torch.int64, device=device)
        self.episodes = EpisodeReturns(clocks)

    def take_policy(self) -> None:
        """Takes over the actor and the observation statistics of --start-from, in a new run.

        Critics, temperature, optimizers and replay are new all the same.

        Raises:
            UserError: there is no such policy, or it does not fit.
        """
        path, agent = self._config.start_from, self.agent
        if path is None:
            return
        policy = load_policy(path)
        theirs, ours = ((x.obs_dim, x.action_dim) for x in (policy, agent))
        if theirs != ours:
            raise ConfigError(
                f"--start-from {path}: {policy.task} has observations of {theirs[0]} and actions "
                f"of {theirs[1]} numbers, {self._config.task} has {ours[0]} and {ours[1]}"
            )
        for name in ("hidden_sizes", "layer_norm", "normalize_obs"):
            its, own = getattr(policy.config, name), getattr(agent.config, name)
            if its != own:
                flag = f"--{name.replace('_', '-')}"
                its, own = (" ".join(map(str, x)) if type(x) is tuple else x for x in (its, own))
                raise ConfigError(f"--start-from {path}: it has {flag} {its}, the run {own}")
        agent.take_policy(policy.state_dict())

    def start(self) -> None:
        """Begins the episodes of a new run; compiles the physics of a GPU's engine."""
        self.obs, info = self.env.reset(seed=self._seed, options={"spread_clocks": True})
        self.episodes = EpisodeReturns(info["clocks"])

    def require_alike(self) -> None:
        """Refuses ranks that would not do the same on the same kind of device.

        Raises:
            ConfigError: what differs between which ranks.
        """
        flags = {f"--{name.replace('_', '-')}": value for name, value in vars(self._config).items()}
        where = {"device": self.env.device.type, "engine": self.env.engine_name}
        self.ranks.require_alike(flags | where)

    @property
    def learns(self) -> bool:
        """Whether the next vector step's updates are to be done."""
        return self.steps >= self.learns_from and len(self.replay) > 0

    def crossed(self, every: int) -> bool:
        """Whether the last vector step crossed a multiple of so many environment steps."""
        return self.steps // every > (self.steps - self.worlds) // every

    def action(self) -> torch.Tensor:
        """Returns actions (B, A) in [-1, 1]: uniform ones at first, then the policy's.

        A policy to begin with acts from the first step on: the replay begins with what it does.
        """
        noise = self._noise.next() if self._noise else None
        if self.steps >= self._learning_starts or self._config.start_from is not None:
            return self.agent.act(self.obs, noise=noise)
        if noise is not None:
            return torch.erf(noise / math.sqrt(2))
        shape = (self.env.num_envs, self.env.action_dim)
        kind: Any = {"dtype": torch.float32, "device": self.env.device}
        return torch.rand(shape, generator=self._random, **kind) * 2 - 1

    def state_dict(self) -> dict[str, Any]:
        """Everything but the replay's rows, as tensors, numbers and dicts of them."""
        return {
            "agent": self.agent.state_dict(),
            "env": self.env.state_dict(),
            "replay": self.replay.state_dict(),
            "returns": self.returns.state_dict(),
            "episodes": self.episodes.state_dict(),
            "faults": self.faults.state_dict(),
            "obs": self.obs,
            "actions": self._random.get_state(),
            **({"noise": self._noise.state_dict()} if self._noise else {}),
            "counters": {
                "steps": self.steps,
                "updates": self.updates,
                "invalid": int(self.invalid),
                "learns_from": self.learns_from,
            },
        }

    def part_dict(self) -> dict[str, Any]:
        """What of state_dict differs from rank to rank."""
        state = self.state_dict()
        return state | {"agent": {"generator": state["agent"]["generator"]}}

    def load_state_dict(
        self, state: dict[str, Any], parts: Iterable[tuple[int, torch.Tensor]] | None
    ) -> None:
        """Goes on from what state_dict returned.

        Args:
            state: of the same configuration, on the same kind of device.
            parts: the replay's rows, each with its first number; without them the policy first
                gathers as many transitions as a new run does before its first update.

        Raises:
            KeyError, RuntimeError, TypeError, ValueError: of another configuration.
        """
        counters = state["counters"]
        if any(type(count) is not int or count < 0 for count in counters.values()):
            raise ValueError(f"its counters are {counters}")
        if state["obs"].shape != self.obs.shape:
            raise ValueError(f"its observations are {tuple(state['obs'].shape)}")
        self.agent.load_state_dict(state["agent"])
        self.env.load_state_dict(state["env"])
        self.replay.load_state_dict(state["replay"], parts)
        self.returns.load_state_dict(self._to_device(state["returns"]))
        self.episodes.load_state_dict(state["episodes"])
        if "faults" in state:  # from checkpoint format 5 on
            self.faults.load_state_dict(state["faults"])
        self.obs = self._to_device(state["obs"])
        self._random.set_state(state["actions"])
        if self._noise:
            self._noise.load_state_dict(state["noise"])
        self.steps, self.updates = counters["steps"], counters["updates"]
        self.invalid.fill_(counters["invalid"])
        self.learns_from = counters["learns_from"]
        if parts is None and state["replay"]["added"] > 0:
            self.learns_from = max(self.learns_from, self.steps + self._learning_starts)

    def close(self) -> None:
        """Ends the worlds' threads."""
        self.agent.close()
        self.env.close()

    def _to_device(self, tree: Any) -> Any:
        if isinstance(tree, torch.Tensor):
            return tree.to(self.env.device)
        return [self._to_device(x) for x in tree]
