"""The initial states we hand out against dm_control's own, as two samples of one distribution.

Then the published ports' bugs, each planted, to prove that these tests find them.
"""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dm_control.suite import finger as dm_finger
from dm_control.utils import containers
from scipy.stats import ks_2samp

import fastsac
from fastsac.envs import initial_states
from fastsac.envs.engines.native import NativeEngine
from fastsac.envs.registry import find
from fastsac.envs.suite import action_range, load, load_suite
from fastsac.envs.vector_env import VectorEnv

TASKS = fastsac.tasks()
DRAWN = ("qpos", "qvel", "act")  # besides the task's model fields
OUR_SEED, THEIR_SEED = 1, 2
# Draws of each sample, from us and from dm_control; those of these take 5 to 100 ms.
DRAWS = 300
FEWER = {"humanoid_CMU": 60, "quadruped": 60, "lqr": 60, "quadruped_escape": 20}
# Of identical distributions one comparison in a million fails; all checks of it share that.
FALSE_ALARMS = 1e-6
# quadruped_escape's terrain, 40,401 heights that 25 bumps make: so many of them are compared.
HEIGHTS = 32
# The suite's domains that draw again while anything touches.
COLLISION_FREE = (
    "ball_in_cup",
    "finger",
    "humanoid",
    "humanoid_CMU",
    "manipulator",
    "quadruped",
    "stacker",
)
# What dm_control draws for the picture only.
VISUAL = {"light_pos"}
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
        fields = {k: env.physics.data for k in DRAWN} | {
            k: env.physics.model for k in task.randomised
        }
        rows.append({k: np.array(getattr(owner, k), np.float64) for k, owner in fields.items()})
    return {k: np.stack([row[k] for row in rows]) for k in rows[0]}


def one_step_env(task, num_envs, **changes):
    """An env whose episodes last one step, so that every step resets all worlds."""
    suite = dataclasses.replace(load_suite(task), max_episode_steps=1, **changes)
    return VectorEnv(NativeEngine(suite, num_envs), num_envs, torch.device("cpu"), seed=0)


class HandedOut:
    """What an env hands out in reset and in the steps after it, which all reset.

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
            getattr(physics.data if hasattr(physics.data, name) else physics.model, name)[:] = (
                values[row]
            )
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
        env.reset_next_step = False
        step = env.step((high + low) / 2 + (high - low) / 2 * handed_out.actions[row])
        np.testing.assert_allclose(handed_out.final_obs[row], flat(step.observation), **OBS)


def check_nothing_touches(handed_out, env):
    for row in range(len(handed_out.obs)):
        assert put(env, handed_out.states, row).data.ncon == 0, f"contacts in row {row}"


@pytest.fixture(scope="module", params=TASKS)
def case(request):
    """A task, what our env of it hands out, and a dm_control environment to look at it."""
    task = find(request.param)
    draws = FEWER.get(task.full_name, FEWER.get(task.domain, DRAWS))
    with pytest.MonkeyPatch.context() as patch:
        if task.full_name == "quadruped_escape" or task.model_is_drawn:
            # No state beyond those that are compared; none depends on it.
            patch.setattr(initial_states, "_ROWS_A_JOB", 4)
            patch.setattr(initial_states, "_JOBS_AHEAD", 0)
        env = one_step_env(task, draws // 5)
        handed_out = HandedOut(env, draws)
        env.close()
    reference = load(task, 0)
    reference.reset()
    return SimpleNamespace(task=task, draws=draws, handed_out=handed_out, dm=reference)


def test_initial_states_are_distributed_as_dm_controls(case):
    ours = case.handed_out.drawn()
    theirs = from_dm_control(case.task, case.draws, THEIR_SEED)
    check_same_distribution(thinned(ours), thinned(theirs))


def test_first_and_last_observations_belong_to_their_states(case):
    last = len(case.handed_out.obs) - 1
    check_first_observations(case.handed_out, case.dm, [0, 1, last - 1, last])
    last = len(case.handed_out.final_obs) - 1
    check_final_observations(case.handed_out, case.dm, [0, last])


def test_nothing_touches_where_dm_control_rejects_it(case):
    if case.task.domain not in COLLISION_FREE:
        return
    check_nothing_touches(case.handed_out, case.dm)


@pytest.mark.parametrize("name", TASKS)
def test_every_model_field_that_dm_control_draws_is_per_world(name):
    task, models = find(name), []
    env = load(task, 0)
    for seed in range(2):
        env = load(task, seed) if task.model_is_drawn else env
        env.reset()
        model = env.physics.model.ptr
        values = {k: getattr(model, k, None) for k in dir(model) if not k.startswith("_")}
        models.append({k: v.copy() for k, v in values.items() if isinstance(v, np.ndarray)})
    one, other = models
    assert {"body_mass", "site_pos", "hfield_data"} < set(one)
    varied = {k for k in one if not np.array_equal(one[k], other[k], equal_nan=True)}
    assert varied - VISUAL == set(task.randomised)


# The published ports' bugs, planted.


def halved(rows, random):
    return rows | {"qpos": rows["qpos"] / 2}


def unwrapped(rows, random):
    return rows | {"qpos": rows["qpos"] % (2 * np.pi)}


def one_pose(rows, random):
    return rows | {"qpos": np.repeat(rows["qpos"][:1], len(rows["qpos"]), axis=0)}


def rotated_by_noise(rows, random):
    return rows | {"qpos": rows["qpos"] + 1e-2 * random.normal(size=rows["qpos"].shape)}


def offset_constant(rows, random):
    moved = rows["qpos"].copy()
    moved[:, 2] += 1e-6
    return rows | {"qpos": moved}


def noise_doubled(rows, random):
    return rows | {"qvel": 2 * rows["qvel"]}


def entries_swapped(rows, random):
    return rows | {"qpos": rows["qpos"][:, ::-1]}


def target_stays(rows, random):
    return rows | {"geom_pos": np.repeat(rows["geom_pos"][:1], len(rows["geom_pos"]), axis=0)}


def one_key_for_both_angles(rows, random):
    return rows | {"qpos": rows["qpos"][:, [0, 0]]}


def one_key_for_angle_and_target(rows, random):
    target = rows["geom_pos"][:, find_target("reacher_hard")]
    return rows | {"qpos": np.stack([np.arctan2(*target[:, :2].T), rows["qpos"][:, 1]], axis=1)}


def one_key_for_two_worlds(rows, random):
    """Every other world's draw is the one before it, all but the rounding."""
    return {k: v[np.arange(len(v)) // 2 * 2] + 1e-9 * random.normal(size=(len(v),) + (1,) * (v.ndim - 1)) * (v != v[0]) for k, v in rows.items()}


def one_state_cached(rows, random):
    return {k: np.repeat(v[:1], len(v), axis=0) for k, v in rows.items()}


def ten_states_cached(rows, random):
    return {k: v[np.arange(len(v)) % 10] for k, v in rows.items()}


def find_target(task):
    return load_suite(find(task)).model.geom("target").id


PLANTED = [
    ("pendulum_swingup", halved, "Kolmogorov"),
    ("pendulum_swingup", unwrapped, "Kolmogorov"),
    ("humanoid_walk", one_pose, "constant in one"),
    ("humanoid_walk", offset_constant, "constants differ"),
    ("cartpole_swingup", noise_doubled, "Kolmogorov|product"),
    ("reacher_hard", entries_swapped, "Kolmogorov"),
    ("reacher_hard", target_stays, "constant in one"),
    ("acrobot_swingup", one_key_for_both_angles, "product"),
    ("reacher_hard", one_key_for_angle_and_target, "product"),
    ("reacher_hard", one_key_for_two_worlds, "next row"),
    ("reacher_hard", one_state_cached, "constant in one"),
    ("reacher_hard", ten_states_cached, "twice"),
]
