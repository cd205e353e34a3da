"""The initial states we hand out against dm_control's own, as two samples of one distribution.

Then the published ports' bugs, each planted, to prove that these tests find them.
"""

import dataclasses
import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dm_control.suite import finger as dm_finger
from dm_control.suite.utils.randomizers import randomize_limited_and_rotational_joints
from scipy.stats import ks_2samp

import fastsac
from fastsac.envs import initial_states, outcome
from fastsac.envs.engines import native
from fastsac.envs.engines.native import NativeEngine
from fastsac.envs.initial_states import InitialStates
from fastsac.envs.registry import find
from fastsac.envs.suite import STATE, action_range, load, load_suite
from fastsac.envs.vector_env import VectorEnv

TASKS = fastsac.tasks()
COSTLY = ("dog", "humanoid_CMU", "lqr", "quadruped", "stacker")
ONE_A_DOMAIN = {find(t).domain: t for t in TASKS if not t.startswith(COSTLY)}.values()
DRAWN = ("qpos", "qvel", "act")  # besides the task's model fields
OUR_SEED, THEIR_SEED = 1, 2
# Draws of each sample, from us and from dm_control; those of these take 5 to 100 ms.
DRAWS = 300
# Below 40 the moments' bound is beyond what any sample reaches: the distributions remain.
FEWER = {"humanoid_CMU": 60, "quadruped": 60, "lqr": 50, "quadruped_escape": 20}
# Of identical distributions one comparison in a million fails; all checks of it share that.
FALSE_ALARMS = 1e-6
# quadruped_escape's terrain, 40,401 heights that 25 bumps make: so many of them are compared.
HEIGHTS = 32
# The suite's domains that draw again while anything touches.
COLLISION_FREE = "ball_in_cup finger humanoid humanoid_CMU manipulator quadruped stacker".split()
VISUAL = {"light_pos"}  # what dm_control draws for the picture only
# Of a float32 observation from its float64 value: half an ulp is 6e-8 of it.
OBS = dict(rtol=3e-7, atol=1e-7)


def check_same_distribution(ours, theirs):
    """Compares two samples of n independent rows, each a dict of arrays (n, ...).

    Raises:
        AssertionError: an entry is constant in one sample only or at another value, or has another
            distribution; a mean or a product of two entries, or of an entry in two consecutive
            rows, differs by more than chance explains; or a row comes twice.
    """
    assert set(ours) == set(theirs)
    names = [f"{k}[{i}]" for k, v in ours.items() for i in range(v[0].size)]
    a, b = (np.concatenate([v.reshape(len(v), -1) for v in s.values()], 1) for s in (ours, theirs))
    assert a.shape == b.shape and np.isfinite(a).all() and np.isfinite(b).all()
    constant = (a == a[0]).all(axis=0)
    for entry in np.flatnonzero(constant != (b == b[0]).all(axis=0)):
        raise AssertionError(f"{names[entry]} is constant in one sample only")
    np.testing.assert_array_equal(a[0, constant], b[0, constant], "constants differ")
    a, b, names = a[:, ~constant], b[:, ~constant], np.array(names)[~constant]
    assert len(np.unique(a, axis=0)) == len(a), "a row comes twice"

    # Bonferroni: half of the false alarms go to the entries' distributions, half to the moments.
    for entry, name in enumerate(names):
        p = ks_2samp(a[:, entry], b[:, entry]).pvalue
        assert p > FALSE_ALARMS / 2 / len(names), f"{name}: Kolmogorov-Smirnov, p = {p:.1e}"
    # Centred by what both samples hold, so that swapping rows k changes their difference's sign
    # only; scaled for the rounding.
    middle, scale = np.concatenate([a, b]).mean(axis=0), np.concatenate([a, b]).std(axis=0)
    a, b = (a - middle) / scale, (b - middle) / scale
    even = len(a) // 2 * 2
    differences = {
        "mean": a - b,
        "product": a[:, :, None] * a[:, None] - b[:, :, None] * b[:, None],
        "product with the next row": a[:even:2] * a[1:even:2] - b[:even:2] * b[1:even:2],
    }
    for what, difference in differences.items():
        sums = np.abs(difference.sum(axis=0))
        size = np.sqrt((difference**2).sum(axis=0))
        deviation = np.divide(sums, size, out=np.zeros_like(sums), where=size > 0)
        worst = np.unravel_index(deviation.argmax(), deviation.shape)
        # Hoeffding: random signs make it exceed x with a probability below 2 exp(-x^2 / 2),
        # whatever the distribution is.
        bound = np.sqrt(2 * np.log(2 * deviation.size * len(differences) / (FALSE_ALARMS / 2)))
        which = " * ".join(names[list(worst)])
        assert deviation[worst] < bound, f"{which}: {what}, {deviation[worst]:.1f} > {bound:.1f}"


def thinned(rows):
    """Replaces a terrain by some of its heights and each draw's mean and spread."""
    if "hfield_data" not in rows:
        return rows
    heights = rows["hfield_data"]
    some = heights[:, np.linspace(0, heights.shape[1] - 1, HEIGHTS).astype(int)]
    moments = np.stack([heights.mean(axis=1), heights.std(axis=1)], axis=1)
    return rows | {"hfield_data": some, "terrain": moments}


def from_dm_control(task, count, seed):
    """Resets dm_control's environment so many times and returns its states, name -> (n, ...)."""
    env = load(task, seed)
    rows = []
    for draw in range(count):
        if task.model_is_drawn:
            env = load(task, 1000 * seed + draw)
        env.reset()
        fields = dict.fromkeys(DRAWN, env.physics.data)
        fields |= dict.fromkeys(task.randomised, env.physics.model)
        rows.append({k: np.array(getattr(owner, k), np.float64) for k, owner in fields.items()})
    return {k: np.stack([row[k] for row in rows]) for k in rows[0]}


def one_step_env(suite, num_envs):
    """An env whose episodes last one step, so that every step resets all worlds."""
    short = dataclasses.replace(suite, max_episode_steps=1)
    return VectorEnv(NativeEngine(short, num_envs), num_envs, torch.device("cpu"), seed=0)


class HandedOut:
    """What an env hands out in reset and in the steps after it, which all reset; closes it.

    Attributes:
        obs: first observations (n, obs_dim).
        states: the states they belong to, name -> (n, ...).
        final_obs: the last observations of the episodes that ended (n - B, obs_dim).
        actions: the actions that led to them (n - B, A); episode i began in state i.
    """

    def __init__(self, env, count, seed=OUR_SEED):
        generator = torch.Generator().manual_seed(seed)
        obs, states, final_obs, actions = [env.reset(seed=seed)[0]], [env.get_state()], [], []
        while len(obs) * env.num_envs < count:
            action = torch.rand(env.num_envs, env.action_dim, generator=generator) * 2 - 1
            first, _, _, truncated, info = env.step(action)
            assert truncated.all()
            obs.append(first)
            states.append(env.get_state())
            final_obs.append(info["final_obs"])
            actions.append(action)
        env.close()
        self.obs, self.final_obs = torch.cat(obs).numpy(), torch.cat(final_obs).numpy()
        self.actions = torch.cat(actions).double().numpy()
        self.states = {k: torch.cat([s[k] for s in states]).numpy() for k in states[0]}

    def drawn(self):
        """Returns what dm_control draws of the states."""
        return {k: v for k, v in self.states.items() if k != "qacc_warmstart"}


def put(env, states, row):
    """Puts a row of states into a dm_control environment as its reset does; returns the physics."""
    physics = env.physics
    with physics.reset_context():
        for name, values in states.items():
            owner = physics.data if name in STATE else physics.model
            getattr(owner, name)[:] = values[row]
    physics.data.qacc_warmstart[:] = states["qacc_warmstart"][row]
    return physics


def flat(observation):
    return np.concatenate([np.ravel(part) for part in observation.values()])


def check_first_observations(handed_out, env, rows):
    """An episode's first observation, after reset and after a step, is that of its state."""
    for row in rows:
        expected = flat(env.task.get_observation(put(env, handed_out.states, row)))
        np.testing.assert_allclose(handed_out.obs[row], expected, **OBS, err_msg=f"row {row}")


def check_final_observations(handed_out, env, rows):
    """An episode's last observation is that of the state its last action led to."""
    low, high = action_range(env)
    for row in rows:
        put(env, handed_out.states, row)
        step = env.step((high + low) / 2 + (high - low) / 2 * handed_out.actions[row])
        np.testing.assert_allclose(handed_out.final_obs[row], flat(step.observation), **OBS)


def check_nothing_touches(handed_out, env):
    for row in range(len(handed_out.obs)):
        assert put(env, handed_out.states, row).data.ncon == 0, f"contacts in row {row}"


@pytest.fixture(
    scope="module",
    params=[pytest.param(t, marks=() if t in ONE_A_DOMAIN else pytest.mark.slow) for t in TASKS],
)
def case(request):
    """A task, what our env of it hands out, and a dm_control environment to look at it."""
    task = find(request.param)
    draws = FEWER.get(task.full_name, FEWER.get(task.domain, DRAWS))
    with pytest.MonkeyPatch.context() as patch:
        if task.full_name == "quadruped_escape" or task.model_is_drawn:
            # No state beyond those that are compared; none depends on it.
            patch.setattr(initial_states, "_ROWS_A_JOB", 4)
            patch.setattr(initial_states, "_JOBS_AHEAD", 0)
        handed_out = HandedOut(one_step_env(load_suite(task), draws // 5), draws)
    reference = load(task, 0)
    reference.reset()
    return SimpleNamespace(task=task, draws=draws, handed_out=handed_out, dm=reference)


def test_initial_states_are_distributed_as_dm_controls(case):
    ours = case.handed_out.drawn()
    theirs = from_dm_control(case.task, case.draws, THEIR_SEED)
    check_same_distribution(thinned(ours), thinned(theirs))
    if case.task.domain in COLLISION_FREE:
        check_nothing_touches(case.handed_out, case.dm)


def test_first_and_last_observations_belong_to_their_states(case):
    last = len(case.handed_out.obs) - 1
    check_first_observations(case.handed_out, case.dm, [0, 1, last - 1, last])
    last = len(case.handed_out.final_obs) - 1
    check_final_observations(case.handed_out, case.dm, [0, last])


def test_the_model_fields_that_dm_control_draws_are_per_world(case):
    models, env = [], case.dm
    for seed in range(2):
        env = load(case.task, seed) if case.task.model_is_drawn else env
        env.reset()
        model = env.physics.model.ptr
        values = {k: getattr(model, k, None) for k in dir(model) if not k.startswith("_")}
        models.append({k: v.copy() for k, v in values.items() if isinstance(v, np.ndarray)})
    one, other = models
    assert {"body_mass", "site_pos", "hfield_data"} < set(one)
    varied = {k for k in one if not np.array_equal(one[k], other[k])}
    assert varied - VISUAL == set(case.task.randomised)


def test_one_env_does_not_change_another():
    """Of one suite, of one task, and with model fields of its own."""
    suite = load_suite(find("reacher_hard"))
    expected = HandedOut(one_step_env(suite, 3), 9)
    HandedOut(one_step_env(suite, 3), 9, seed=7)
    doubled = {"body_mass": lambda random, default: 2 * default}
    heavy = HandedOut(one_step_env(load_suite(suite.task, doubled), 3), 9)
    assert not np.array_equal(heavy.final_obs, expected.final_obs)
    for again in (suite, load_suite(suite.task)):
        got = HandedOut(one_step_env(again, 3), 9)
        np.testing.assert_array_equal(got.obs, expected.obs)
        np.testing.assert_array_equal(got.final_obs, expected.final_obs)


def scale_masses(random, default):
    return default * (1 + random.uniform(-0.1, 0.1))


def test_the_users_draws_are_independent_of_dm_controls():
    task = find("pendulum_swingup")
    suite = load_suite(task, {"body_mass": scale_masses})
    states = HandedOut(one_step_env(suite, 60), DRAWS).states
    random, theirs = np.random.default_rng(0), from_dm_control(task, DRAWS, THEIR_SEED)
    masses = np.stack([scale_masses(random, suite.model.body_mass) for _ in range(DRAWS)])
    ours = {k: states[k] for k in (*theirs, "body_mass")}
    check_same_distribution(ours, theirs | {"body_mass": masses})
    with pytest.raises(AssertionError, match="product"):
        from_one_key = suite.model.body_mass * (1 + ours["qpos"] / (10 * np.pi))
        check_same_distribution(ours | {"body_mass": from_one_key}, theirs | {"body_mass": masses})


# The published ports' bugs, planted in one of two samples of dm_control's.


def changed(name, change):
    return lambda rows: rows | {name: change(rows[name])}


def joint_from_the_targets_angle(rows):
    target = rows["geom_pos"][:, load_suite(find("reacher_hard")).model.geom("target").id]
    return rows | {"qpos": np.stack([np.arctan2(*target[:, :2].T), rows["qpos"][:, 1]], axis=1)}


def ten_cached_states(rows):
    return {k: v[np.arange(len(v)) % 10] for k, v in rows.items()}


HALVED = changed("qpos", lambda qpos: qpos / 2)
FROM_ZERO = changed("qpos", lambda qpos: qpos % (2 * np.pi))
ONE_POSE = changed("qpos", lambda qpos: np.repeat(qpos[:1], len(qpos), axis=0))
A_MICROMETRE_UP = changed("qpos", lambda qpos: qpos + 1e-6 * (np.arange(qpos.shape[1]) == 2))
REVERSED = changed("qpos", lambda qpos: qpos[:, ::-1])
NOISE_DOUBLED = changed("qvel", lambda qvel: 2 * qvel)
TARGET_STAYS = changed("geom_pos", lambda pos: np.repeat(pos[:1], len(pos), axis=0))
ONE_KEY_FOR_TWO_JOINTS = changed("qpos", lambda qpos: qpos[:, [0, 0]])
# The targets differ, and so the rows do.
ONE_KEY_FOR_TWO_WORLDS = changed("qpos", lambda qpos: qpos[np.arange(len(qpos)) // 2 * 2])


@pytest.mark.parametrize(
    ("task", "plant", "words"),
    [
        ("pendulum_swingup", HALVED, "Kolmogorov"),
        ("pendulum_swingup", FROM_ZERO, "Kolmogorov"),
        ("humanoid_walk", ONE_POSE, "constant in one"),
        ("humanoid_walk", A_MICROMETRE_UP, "constants differ"),
        ("cartpole_balance", REVERSED, "Kolmogorov"),
        ("cartpole_swingup", NOISE_DOUBLED, "Kolmogorov|product"),
        ("reacher_hard", TARGET_STAYS, "constant in one"),
        ("reacher_hard", joint_from_the_targets_angle, "product"),
        ("acrobot_swingup", ONE_KEY_FOR_TWO_JOINTS, "product"),
        ("reacher_hard", ONE_KEY_FOR_TWO_WORLDS, "next row"),
        ("reacher_hard", ten_cached_states, "twice"),
    ],
)
def test_a_bug_in_a_sample_is_found(task, plant, words):
    one, other = (from_dm_control(find(task), DRAWS, seed) for seed in (5, 6))
    check_same_distribution(one, other)
    with pytest.raises(AssertionError, match=words):
        check_same_distribution(plant(one), other)


# And in the engine.


def target_moves_after_forward(patch):
    original = NativeEngine._initialise

    def initialise(self, worlds, rows):
        original(self, worlds, rows)
        self._models.rows["geom_pos"][worlds] += 0.01

    patch.setattr(NativeEngine, "_initialise", initialise)


def steps_with(patch, change):
    original = NativeEngine.recv
    patch.setattr(NativeEngine, "recv", lambda self: change(original(self)))


def last_observation_overwritten(patch):
    steps_with(patch, lambda step: step._replace(final_obs=step.obs.clone()))


def first_observation_is_the_last(patch):
    steps_with(patch, lambda step: step._replace(obs=step.final_obs.clone()))


def resets_replay_the_first(patch):
    patch.setattr(InitialStates, "take", functools.cache(InitialStates.take))


def all_rows_from_one_key(patch):
    original = InitialStates.row
    patch.setattr(InitialStates, "row", lambda self, seed, index: original(self, seed, 0))


def observation_in_another_order(patch):
    original = outcome.observation

    def observation(task, *args):
        swapped = lambda physics: dict(reversed(task.observe(physics).items()))  # noqa: E731
        return original(dataclasses.replace(task, observe=swapped), *args)

    patch.setattr(native, "observation", observation)


@pytest.mark.parametrize(
    ("plant", "words", "failing"),
    [
        (target_moves_after_forward, "row 0", "first"),
        (first_observation_is_the_last, "row 20", "first"),
        (observation_in_another_order, "row 0", "first"),
        (last_observation_overwritten, "Not equal", "final"),
        (resets_replay_the_first, "twice", "distribution"),
        (all_rows_from_one_key, "constant in one", "distribution"),
    ],
)
def test_a_bug_in_the_engine_is_found(plant, words, failing, monkeypatch):
    task = find("reacher_hard")
    suite, env = load_suite(task), load(task, 0)
    env.reset()
    theirs = from_dm_control(task, 60, THEIR_SEED)
    checks = {
        "first": lambda found: check_first_observations(found, env, [0, 20, 59]),
        "final": lambda found: check_final_observations(found, env, [0, 39]),
        "distribution": lambda found: check_same_distribution(found.drawn(), theirs),
    }
    for check in checks.values():
        check(HandedOut(one_step_env(suite, 20), 60))
    plant(monkeypatch)
    buggy = HandedOut(one_step_env(suite, 20), 60)
    with pytest.raises(AssertionError, match=words):
        checks[failing](buggy)


def test_the_loss_of_fingers_collision_free_reset_is_found(monkeypatch):
    task = find("finger_turn_hard")
    env = load(task, 0)
    env.reset()
    monkeypatch.setattr(
        dm_finger, "_set_random_joint_angles", randomize_limited_and_rotational_joints
    )
    with pytest.raises(AssertionError, match="contacts"):
        check_nothing_touches(HandedOut(one_step_env(load_suite(task), 60), DRAWS), env)
