"""Returns over several steps, gathered while the worlds run."""

from collections.abc import Sequence

import torch

from fastsac.learner.replay import Batch


class NStepReturns:
    """Turns single steps into transitions whose reward is the discounted sum of up to n.

    The entropies of the actions between are not in the sum, and nothing corrects for the older
    policy that took them, as is usual for small n.

    A transition stops at its episode's end: ``steps`` says how many rewards it sums, next_obs is
    what the last of them led to. Every vector step completes one transition a world, begun n - 1
    steps ago, so nothing waits for the device.

    Args:
        n: rewards a transition sums at most.
        gamma: discount per control step.
    """

    def __init__(self, n: int, gamma: float):
        self._n, self._gamma = n, gamma
        # The oldest first; of each its transition so far and which worlds' are complete.
        self._open: list[tuple[Batch, torch.Tensor]] = []

    def add(
        self,
        obs: torch.Tensor,
        action: torch.Tensor,
        reward: torch.Tensor,
        terminated: torch.Tensor,
        ends: torch.Tensor,
        final_obs: torch.Tensor,
        valid: torch.Tensor,
    ) -> Batch | None:
        """Takes a step of every world and returns the transitions that it completes.

        Args:
            obs: (B, obs_dim) before the step.
            action: (B, A).
            reward: (B,).
            terminated: (B,) bool.
            ends: (B,) bool, where an episode ended, terminated or truncated.
            final_obs: (B, obs_dim) after the step, before any reset.
            valid: (B,) bool, False where the physics diverged: a transition with such a step in it
                has weight 0.

        Returns:
            The transitions begun n - 1 steps ago, or None during the first n - 1 steps.
        """
        one = torch.ones_like(reward)
        step = Batch(obs, action, reward, terminated.to(one), final_obs, valid.to(one), one)
        self._open = [(self._continued(t, done, step), done | ends) for t, done in self._open]
        self._open.append((step, ends))
        return self._open.pop(0)[0] if len(self._open) == self._n else None

    def state_dict(self) -> list[tuple[torch.Tensor, ...]]:
        """The transitions that are not complete: of each its fields, and which worlds' are."""
        return [(*batch, done) for batch, done in self._open]

    def load_state_dict(self, state: Sequence[Sequence[torch.Tensor]]) -> None:
        """Goes on from what state_dict returned."""
        self._open = [(Batch(*fields), done) for *fields, done in state]

    def _continued(self, old: Batch, done: torch.Tensor, step: Batch) -> Batch:
        """Returns old transitions, those that are not done with one more step in them."""
        return old._replace(
            reward=torch.where(done, old.reward, old.reward + self._gamma**old.steps * step.reward),
            terminated=torch.where(done, old.terminated, step.terminated),
            next_obs=torch.where(done[:, None], old.next_obs, step.next_obs),
            weight=torch.where(done, old.weight, old.weight * step.weight),
            steps=old.steps + (~done).to(old.steps),
        )
