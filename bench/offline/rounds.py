"""How many rounds the constraint solver takes: the one count that a compiler does not know.

    python -m fastsac.bench.offline.rounds '{"task": ..., "solver": ...}'

Measured with C MuJoCo, which steps 4096 worlds in seconds on a CPU: the same budget and
tolerance, one island, as MJX has it, but in float64. A vmapped while loop goes on until its last
world is done, so a substep takes as many rounds as the world that needs the most.
"""

import json
import os
import sys
from typing import Any

import mujoco
import numpy as np
from mujoco.batch import MODEL_FIELDS, Batch

import fastsac.envs.tasks  # noqa: F401  (registers them)
from fastsac.envs.engines.mjx_model import edited
from fastsac.envs.engines.world_models import WorldModels
from fastsac.envs.initial_states import InitialStates
from fastsac.envs.registry import find
from fastsac.envs.suite import STATE, load_suite

WORLDS = 4096
# Where every world needs a whole model of its own (12 MB each, quadruped_escape).
_WORLDS_OF_WHOLE_MODELS = 64
# Initial states are drawn so many, and shared: random actions part the worlds soon.
_DRAWN = 64
_SETTLING_STEPS, _MEASURED_STEPS = 15, 5  # control steps


def measure(task: str, solver: str) -> dict[str, Any]:
    """Returns the rounds of a substep: the most, and the mean over the substeps measured."""
    suite = load_suite(find(task))
    budget = suite.task.fast_solver if solver == "fast" else suite.task.solver
    model = edited(suite.model, budget)
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_ISLAND)
    shared = set(suite.model_fields) <= MODEL_FIELDS
    worlds = WORLDS if shared else _WORLDS_OF_WHOLE_MODELS
    source = InitialStates(suite, 0)
    drawn = source.take(_DRAWN)
    source.close()
    rows = {k: np.resize(v, (worlds, *v.shape[1:])) for k, v in drawn.items()}
    batch = Batch(model, worlds, len(os.sched_getaffinity(0)))
    WorldModels(batch, suite.model_fields).write(np.arange(worlds), rows)
    for name in STATE:
        batch.bind(name)[:] = rows[name]
    control, taken = batch.bind("ctrl"), batch.bind("solver_niter")
    generator = np.random.default_rng(0)
    most = []
    for step in range(_SETTLING_STEPS + _MEASURED_STEPS):
        control[:] = suite.control(generator.uniform(-1, 1, control.shape))
        for _ in range(suite.substeps):
            batch.step(nstep=1)
            if step >= _SETTLING_STEPS:
                most.append(int(taken[:, 0].max()))
    return {
        "most": max(most),
        "mean": round(float(np.mean(most)), 2),
        "how": f"C MuJoCo in float64 with the same budget ({budget}), the slowest of {worlds} "
        f"worlds in each of {len(most)} physics steps, after {_SETTLING_STEPS} control steps of "
        f"random actions from {_DRAWN} initial states",
    }


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
