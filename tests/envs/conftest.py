"""What the env tests share: a dm_control environment beside ours, from the same state."""

import ctypes
import gc
import io

import jax
import numpy as np
import pytest
import torch

import fastsac
from fastsac.envs.registry import find
from fastsac.envs.suite import STATE, action_range, load

# Of a process; what jax compiled of all tasks took 12 GB, and its compiler's leavings most of that.
_MOST_MEMORY = 4_000_000_000


@pytest.fixture(autouse=True)
def memory_is_given_back():
    yield
    with open("/proc/self/status") as status:
        resident = next(int(line.split()[1]) * 1024 for line in status if "VmRSS" in line)
    if resident > _MOST_MEMORY:
        jax.clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


class DmControl:
    """dm_control's own environment with flat observations."""

    def __init__(self, task: str, seed: int):
        self.task = find(task)
        self.env = load(self.task, seed)
        self.obs = _flat(self.env.reset())

    @property
    def physics(self):
        return self.env.physics

    def reset(self, seed: int) -> np.ndarray:
        """Starts the first episode of an environment with this seed; returns flat observation."""
        if self.task.model_is_drawn:
            self.env = load(self.task, seed)
        else:
            self.env.task.random.seed(seed)
        self.obs = _flat(self.env.reset())
        return self.obs

    def state(self) -> dict[str, np.ndarray]:
        """The state as VectorEnv.set_state takes it for one world."""
        names = {k: self.physics.data for k in STATE}
        names |= {k: self.physics.model for k in self.task.randomised}
        return {k: np.array(getattr(owner, k))[None] for k, owner in names.items()}

    def step(self, action: np.ndarray):
        """Returns flat observation, reward and the TimeStep."""
        low, high = action_range(self.env)
        step = self.env.step((high + low) / 2 + (high - low) / 2 * action.astype(np.float64))
        return _flat(step), step.reward, step


def _flat(step) -> np.ndarray:
    return np.concatenate([np.ravel(x) for x in step.observation.values()])


@pytest.fixture
def dm():
    return DmControl


@pytest.fixture(scope="session")
def shared():
    """Returns the one env of a task, engine and number of worlds, for tests that reset it first.

    MJX compiles for seconds; the cache on disk saves XLA's part of it, not the tracing.
    """
    made = {}

    def get(task, num_envs, engine="mjx"):
        key = (task, num_envs, engine)
        if engine == "warp":
            pytest.importorskip("warp")
        if key not in made:
            made[key] = fastsac.make(task, num_envs=num_envs, engine=engine)
        return made[key]

    yield get
    for env in made.values():
        env.close()


@pytest.fixture
def make():
    """fastsac.make, closed at the end of the test."""
    made = []

    def build(*args, **kwargs):
        if kwargs.get("engine") == "warp":
            pytest.importorskip("warp")
        made.append(fastsac.make(*args, **kwargs))
        return made[-1]

    yield build
    for env in made:
        env.close()


@pytest.fixture
def goes_on(actions):
    """Steps on from a saved state, and again from the file; each step's two results."""

    def both(env) -> list[tuple]:
        env.reset(seed=3, options={"spread_clocks": True})
        for action in actions(env, 245):
            env.step(action)
        file = io.BytesIO()
        torch.save(env.state_dict(), file)
        expected = [env.step(action) for action in actions(env, 20, seed=1)]
        assert any(step[3].any() for step in expected)  # from then on with the next initial state
        env.reset(seed=9)
        file.seek(0)
        env.load_state_dict(torch.load(file, weights_only=True))
        found = [env.step(action) for action in actions(env, 20, seed=1)]
        return list(zip(found, expected, strict=True))

    return both


@pytest.fixture
def actions():
    """Uniform actions (steps, B, A) float32 from a seed."""

    def draw(env, steps: int, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(steps, env.num_envs, env.action_dim, generator=generator) * 2 - 1

    return draw
