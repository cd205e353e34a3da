"""The suite's domains, a file each; importing this package registers their tasks."""

from fastsac.envs.tasks import cartpole, cheetah, humanoid, reacher, walker

__all__ = ["cartpole", "cheetah", "humanoid", "reacher", "walker"]
