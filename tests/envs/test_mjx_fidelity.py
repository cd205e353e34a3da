"""Every task that MJX holds: the same state in float64, and free runs in float32, by dm_control."""

import jax
import numpy as np
import pytest
import torch

import fastsac
from fastsac.envs.engines.mjx import MjxEngine
from fastsac.envs.engines.mjx_model import edited
from fastsac.envs.physics import Physics
from fastsac.envs.registry import ENERGY_OFF, GEOMS_DO_NOT_COLLIDE, find
from fastsac.envs.suite import STATE, load_suite
from tests.envs.free_run import FREE_RUN, require_float32
from tests.envs.mjx_models import ONE_A_MODEL, SAME_MODEL, TASKS

# Tendons whose wrapping is drawn, and RK4; test_mjx_engine.py has others.
QUICK = ("point_mass_hard", "acrobot_swingup")
CASES = [pytest.param(task, marks=() if task in QUICK else pytest.mark.slow) for task in TASKS]
BATCH = 4
STEPS = 10


@pytest.fixture(scope="module")
def one_a_model():
    """Returns what was compiled of this kind for a task of the same model, if anything was."""
    compiled = {}

    def get(what, suite, function):
        key = what, _bytes(suite.model), suite.task.randomised
        return compiled.setdefault(key, function)

    return get


@pytest.mark.parametrize("task", CASES)
def test_the_same_state_in_float64(task, dm, one_a_model):
    """Observation and reward of dm_control's states, in flight and on the ground, to 1e-9."""
    reference, entry, suite = dm(task, seed=3), find(task), load_suite(find(task))
    random = np.random.default_rng(0)
    rows, expected = [], []
    for steps in (0, 10, 30, 60):
        reference.reset(seed=3)
        for _ in range(steps):
            reference.step(random.uniform(-1, 1, suite.action_dim))
        state = reference.state()
        physics = reference.physics
        with physics.reset_context():  # so that dm_control derives all else from it as we do
            for name in STATE:
                getattr(physics.data, name)[:] = state[name][0]
        rows.append(state)
        expected.append(
            (reference.env.task.get_observation(physics), reference.env.task.get_reward(physics))
        )
    with jax.enable_x64(True):
        engine = MjxEngine(suite, BATCH)
        stacked = engine._cast({k: np.concatenate([row[k] for row in rows]) for k in rows[0]})
        worlds = one_a_model("initial", suite, jax.jit(jax.vmap(engine._initial)))(stacked)[0]
        for i, (observed, reward) in enumerate(expected):
            world = jax.tree.map(lambda leaf, i=i: leaf[i], worlds)
            fields = {k: stacked[k][i] for k in engine._model_fields}
            ours = Physics(suite.model, world, fields)
            for name, value in entry.observe(ours).items():
                np.testing.assert_allclose(
                    value, observed[name], rtol=1e-9, atol=1e-9, err_msg=f"{name} of state {i}"
                )
            np.testing.assert_allclose(entry.reward(ours), reward, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "other"), SAME_MODEL.items())
def test_they_share_a_model(task, other):
    ours, theirs = (load_suite(find(name)) for name in (task, other))
    assert _bytes(ours.model) == _bytes(theirs.model) and ours.substeps == theirs.substeps


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(task, marks=() if task == "acrobot_swingup" else pytest.mark.slow)
        for task in ONE_A_MODEL
    ],
)
def test_a_free_run_in_float32(task, make):
    native = make(task, num_envs=BATCH, engine="native")
    native.reset(seed=3)
    suite = native.suite
    engine = MjxEngine(suite, BATCH)
    engine.reset(3, np.zeros(BATCH, np.int64))
    # The engine's control step by itself: resets are tested elsewhere and double the compilation.
    step = jax.jit(jax.vmap(engine._control_step))
    data, fields = engine._worlds.data, engine._worlds.model_fields
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, BATCH, suite.action_dim))
    qpos, obs, reward = [], [], []
    for action in actions.astype(np.float32):
        data, outcome = step(data, fields, action)
        theirs = native.step(torch.from_numpy(action))
        qpos.append(np.abs(data.qpos - native.get_state()["qpos"].numpy()).max(axis=1))
        obs.append(np.abs(outcome.obs - theirs[0].numpy()).max(axis=1))
        reward.append(np.abs(outcome.reward - theirs[1].numpy()).max())
    engine.close()
    errors = {"qpos": np.max(qpos, axis=0), "obs": np.max(obs, axis=0), "reward": np.max(reward)}
    print(task, {k: np.array2string(v, precision=1) for k, v in errors.items()})
    require_float32(task, errors, FREE_RUN)
    # A percent more of the actions is told apart: the tolerance is not a blank cheque.
    more = step(data, fields, 1.01 * actions[-1].astype(np.float32))[0].qpos
    same = step(data, fields, actions[-1].astype(np.float32))[0].qpos
    assert np.abs(more - same).max() > 1e-7


ONE_A_DOMAIN = {find(task).domain: task for task in fastsac.tasks()}.values()


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(task, marks=() if task in ONE_A_DOMAIN else pytest.mark.slow)
        for task in fastsac.tasks()
    ],
)
def test_every_edit_of_the_model_is_declared(task):
    entry, model = find(task), load_suite(find(task)).model
    if entry.mjx_refusal:
        with pytest.raises(fastsac.envs.EngineUnavailable, match="use --engine native"):
            fastsac.make(task, engine="mjx")
        return
    changed = edited(model, entry.solver)
    declared = entry.mjx_deviations
    assert (ENERGY_OFF in declared) == (changed.opt.enableflags != model.opt.enableflags)
    out_of_collision = not np.array_equal(changed.geom_contype, model.geom_contype)
    assert (GEOMS_DO_NOT_COLLIDE in declared) == out_of_collision
    assert str(entry.solver) in declared[0]
    for name in ("iterations", "ls_iterations", "tolerance"):
        assert getattr(changed.opt, name) == getattr(entry.solver, name)
    # Nothing else differs: with these put back it is dm_control's model to the last byte.
    changed.opt.enableflags = model.opt.enableflags
    changed.geom_contype[:], changed.geom_conaffinity[:] = (
        model.geom_contype,
        model.geom_conaffinity,
    )
    for name in ("iterations", "ls_iterations", "tolerance"):
        setattr(changed.opt, name, getattr(model.opt, name))
    assert _bytes(changed) == _bytes(model)


def _bytes(model):
    import mujoco

    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer.tobytes()
