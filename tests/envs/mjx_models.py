"""The tasks that MJX holds, and of those with one model the one that is stepped for all of them."""

import fastsac
from fastsac.envs.registry import find

TASKS = [task for task in fastsac.tasks() if not find(task).mjx_refusal]
# Tasks that differ from another in observation or reward alone (test_mjx_fidelity.py).
SAME_MODEL = {
    "acrobot_swingup_sparse": "acrobot_swingup",
    "cartpole_balance_sparse": "cartpole_balance",
    "cartpole_swingup": "cartpole_balance",
    "cartpole_swingup_sparse": "cartpole_balance",
    "hopper_stand": "hopper_hop",
    "humanoid_CMU_stand": "humanoid_CMU_run",
    "humanoid_CMU_walk": "humanoid_CMU_run",
    "humanoid_run_pure_state": "humanoid_run",
    "humanoid_stand": "humanoid_run",
    "humanoid_walk": "humanoid_run",
    "walker_stand": "walker_run",
    "walker_walk": "walker_run",
}
ONE_A_MODEL = [task for task in TASKS if task not in SAME_MODEL]
