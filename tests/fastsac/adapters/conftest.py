"""What a client's policy is worth, and the page's example of it."""

import re
from pathlib import Path

import pytest
import torch

import fastsac

BALANCED = 900  # of 1000; no action at all gets 720, an untrained policy's noise less
PAGE = Path(__file__).parents[3] / "docs" / "clients.md"


@pytest.fixture
def example():
    """Runs the code below a heading of docs/clients.md and returns its names."""

    def run(heading, **names):
        (code,) = re.findall(rf"^## {heading}.*\n\n```python\n([^`]*)```", PAGE.read_text(), re.M)
        exec(compile(code, f"{PAGE.name}, {heading}", "exec"), names)
        return names

    return run


@pytest.fixture
def balances():
    """Asserts that a policy, obs (B, 5) -> action (B, 1) tensors, balances cartpole_balance."""

    def check(policy) -> None:
        env = fastsac.make("cartpole_balance", num_envs=16, seed=1_000)
        obs, _ = env.reset()
        total = 0.0
        with torch.no_grad():
            for _ in range(1_000):
                obs, reward, *_ = env.step(policy(obs).float())
                total += reward.mean().item()
        env.close()
        assert total > BALANCED, f"return {total:.0f}"

    return check
