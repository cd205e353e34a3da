"""dm_control's own suite_test.py for our envs: every property of it, crossed with every task.

Left out is what has no counterpart: two cameras at least, the colour of the reward, and the keyword
for flat observations, which ours always are.
"""

import dataclasses
import itertools
from types import SimpleNamespace

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from dm_control import suite as dm_suite
from dm_control.rl import control

import fastsac
from fastsac.envs.c_fields import RecordedFields
from fastsac.envs.engines.native import NativeEngine
from fastsac.envs.physics import Physics
from fastsac.envs.registry import Task, find
from fastsac.envs.suite import load, load_suite
from fastsac.envs.vector_env import VectorEnv

TASKS = fastsac.tasks()
COSTLY = ("dog", "humanoid_CMU", "stacker")
ONE_A_DOMAIN = {find(t).domain: t for t in TASKS if not t.startswith(COSTLY)}.values()
WORLDS = 3
SEED = 42  # dm_control's, of its test of the initial states
# Control steps of the run through `fastsac.make`; of these domains one costs 1 to 15 ms.
STEPS = 250
HEAVY_STEPS = {"dog": 60, "humanoid_CMU": 60, "quadruped": 60, "stacker": 120, "manipulator": 120}
# Of the run with short episodes; the worlds' clocks are spread, so each ends two or three.
EPISODE = 12
SHORT_STEPS = 30
# Observations that may stay constant: "Sampling random uniform actions generally isn't sufficient
# to trigger these touch sensors" (suite_test.py).
MAY_BE_CONSTANT = {
    ("manipulator", "touch"),
    ("stacker", "touch"),
    ("finger", "touch"),
    ("quadruped", "force_torque"),
}
# The objects that suite_test.py wants named; our tasks find theirs by name.
NAMED = {
    "body": "nbody",
    "joint": "njnt",
    "geom": "ngeom",
    "site": "nsite",
    "camera": "ncam",
    "light": "nlight",
    "mesh": "nmesh",
    "hfield": "nhfield",
    "texture": "ntex",
    "material": "nmat",
    "equality": "neq",
    "tendon": "ntendon",
    "actuator": "nu",
    "sensor": "nsensor",
    "numeric": "nnumeric",
    "text": "ntext",
    "tuple": "ntuple",
}


class Rollout:
    """What reset and so many steps returned: the tensors themselves, and copies made at once.

    Args:
        env: a VectorEnv.
        steps: the number of control steps.
        overwrite: whether to fill all returned tensors with garbage before the next step.
        options: of reset.
    """

    def __init__(self, env, steps, overwrite=False, options=None):
        generator = torch.Generator().manual_seed(SEED)
        self.handed_out = []
        self.copies = []
        obs, info = env.reset(seed=SEED, options=options)
        self.clocks = info["clocks"].clone()
        self._keep({"obs": obs}, overwrite)
        for _ in range(steps):
            action = torch.rand(env.num_envs, env.action_dim, generator=generator) * 2 - 1
            obs, reward, terminated, truncated, info = env.step(action)
            assert set(info) == {"final_obs", "_final_obs", "invalid", "fault"}
            flags = {"terminated": terminated, "truncated": truncated}
            self._keep({"obs": obs, "reward": reward, **flags, **info}, overwrite)
            if overwrite:
                action.fill_(torch.nan)

    def _keep(self, tensors, overwrite):
        self.handed_out.append(tensors)
        self.copies.append({name: value.clone() for name, value in tensors.items()})
        for value in tensors.values() if overwrite else ():
            value.fill_(torch.nan if value.is_floating_point() else 1)

    def __getitem__(self, name):
        """Returns (steps, B, ...); ``final_obs`` begins with the first observation (steps + 1)."""
        first = [self.copies[0]["obs"]] if name == "final_obs" else []
        return torch.stack(first + [step[name] for step in self.copies[1:]])


@pytest.fixture(
    scope="module",
    params=[pytest.param(t, marks=() if t in ONE_A_DOMAIN else pytest.mark.slow) for t in TASKS],
)
def case(request, few_states_ahead):
    """A task, dm_control's environment of it, and our rollouts, made once for all properties."""
    task = find(request.param)
    env = fastsac.make(request.param, WORLDS, engine="native")
    short_suite = dataclasses.replace(env.suite, max_episode_steps=EPISODE)
    short_env = VectorEnv(NativeEngine(short_suite, WORLDS), WORLDS, torch.device("cpu"), 0)
    spread = {"spread_clocks": True}
    yield SimpleNamespace(
        name=request.param,
        task=task,
        dm=load(task, SEED),
        env=env,
        run=Rollout(env, HEAVY_STEPS.get(task.domain, STEPS)),
        short=Rollout(short_env, SHORT_STEPS, options=spread),
        repeated=Rollout(short_env, SHORT_STEPS, options=spread, overwrite=True),
    )
    env.close()
    short_env.close()


def parts(case):
    """Returns the slice of the flat observation that each of dm_control's observations takes."""
    spec = case.dm.observation_spec()
    ends = np.cumsum([int(np.prod(part.shape)) for part in spec.values()])
    return {name: slice(a, b) for name, a, b in zip(spec, [0, *ends], ends, strict=False)}


def test_conforms_to_the_spec(case):
    size = sum(int(np.prod(part.shape)) for part in case.dm.observation_spec().values())
    shapes = {"obs": (WORLDS, size), "final_obs": (WORLDS, size)}
    kinds = dict.fromkeys(("obs", "final_obs", "reward"), torch.float32) | {"fault": torch.uint8}
    for rollout in (case.run, case.short):
        for name, value in itertools.chain(*(step.items() for step in rollout.copies)):
            assert tuple(value.shape) == shapes.get(name, (WORLDS,)), name
            assert value.dtype == kinds.get(name, torch.bool), name
            assert value.isfinite().all(), name
        assert not rollout["invalid"].any() and not rollout["fault"].any()
    assert case.env.single_observation_space.shape == (size,)
    assert not case.env.warnings


def test_rewards_are_in_range(case):
    """In [0, 1]; lqr's is 1 minus a cost."""
    for rollout in (case.run, case.short):
        assert rollout["reward"].max() <= 1
        if case.task.domain != "lqr":
            assert rollout["reward"].min() >= 0


def test_the_time_limit_truncates_and_does_not_terminate(case):
    """dm_control's discount is 1 at the time limit and 0 where a task ends: lqr alone does so."""
    ends = type(case.dm.task).get_termination is not control.Task.get_termination
    assert (case.task.terminate is not None) == ends == (case.task.domain == "lqr")
    ages = case.short.clocks + torch.arange(1, SHORT_STEPS + 1)[:, None]
    for rollout in (case.run, case.short):
        assert not rollout["terminated"].any()
        assert torch.equal(rollout["_final_obs"], rollout["truncated"])
    assert torch.equal(case.short["truncated"], ages % EPISODE == 0)
    assert not case.run["truncated"].any()
    # obs is the next episode's where one ended, and only there.
    new = (case.short["obs"] != case.short["final_obs"][1:]).any(dim=-1)
    assert torch.equal(new, case.short["truncated"])


def test_is_deterministic(case):
    """Another env of the task, from the same seed with the same actions, through its first ends."""
    ended = case.short["truncated"].cumsum(0) - case.short["truncated"].int() > 0
    same = ~ended
    assert same.sum(0).tolist() == (EPISODE - case.short.clocks).tolist()
    for name in ("reward", "terminated", "invalid"):
        assert torch.equal(case.run[name][:SHORT_STEPS][same], case.short[name][same]), name
    ours, theirs = (r["final_obs"][1 : SHORT_STEPS + 1][same] for r in (case.run, case.short))
    assert torch.equal(ours, theirs)


def test_reset_leaves_nothing_behind(case):
    """The same env after a reset to the same seed, though all it returned was overwritten."""
    for before, after in zip(case.short.copies, case.repeated.copies, strict=True):
        for name, value in before.items():
            assert torch.equal(value, after[name]), name


def test_initial_states_are_randomised(case):
    """Of all worlds, the resets within a step and the next reset: no two are alike."""
    again = case.env.reset()[0]
    resets = case.short["obs"][case.short["truncated"]]
    firsts = torch.cat([case.short.copies[0]["obs"], resets, again])
    assert len(firsts) >= 4 * WORLDS
    assert len(torch.unique(firsts, dim=0)) == len(firsts)


def test_returned_tensors_do_not_share_memory(case):
    for rollout in (case.run, case.short):
        for kept, copied in zip(rollout.handed_out, rollout.copies, strict=True):
            for name, value in kept.items():
                assert torch.equal(value, copied[name]), f"{name} was overwritten by a later step"
    for step in case.short.handed_out:
        for (one, a), (other, b) in itertools.combinations(step.items(), 2):
            assert not np.may_share_memory(a.numpy(), b.numpy()), f"{one} and {other}"
    for step, following in itertools.pairwise(case.short.handed_out):
        for (one, a), (other, b) in itertools.product(step.items(), following.items()):
            assert not np.may_share_memory(a.numpy(), b.numpy()), f"{one}, then {other}"


def test_observations_do_not_contain_constant_elements(case):
    seen = case.run["final_obs"][1:].flatten(0, 1)
    constant = (seen == seen[0]).all(dim=0).numpy()
    failures = {
        name: np.flatnonzero(constant[part]).tolist()
        for name, part in parts(case).items()
        if constant[part].any() and (case.task.domain, name) not in MAY_BE_CONSTANT
    }
    assert not failures


def test_actions_are_the_control_range(case):
    """[-1, 1] of every actuator; beyond it they saturate, but for lqr's, which have no limits."""
    env, spec = case.env, case.dm.action_spec()
    one = np.ones(env.action_dim)
    assert env.single_action_space == gymnasium.spaces.Box(-1, 1, spec.shape, np.float32)
    assert env.action_dim == spec.shape[0] == case.dm.physics.model.nu
    if case.task.domain != "lqr":
        np.testing.assert_array_equal(env.suite.control(one), spec.maximum)
        np.testing.assert_array_equal(env.suite.control(-one), spec.minimum)
    if (case.task.domain, case.task.name) in dm_suite.BENCHMARKING and case.task.domain != "lqr":
        assert (spec.maximum == 1).all() and (spec.minimum == -1).all()
    env.set_state({k: v[:1].expand_as(v).clone() for k, v in env.get_state().items()})
    signs = torch.where(torch.arange(env.action_dim) % 2 == 0, 1.0, -1.0)
    env.step(torch.stack([signs, 5 * signs, 0.5 * signs]))
    qvel = env.get_state()["qvel"]
    assert torch.equal(qvel[0], qvel[1]) == (case.task.domain != "lqr")
    assert not torch.equal(qvel[0], qvel[2])


def test_observations_have_dm_controls_names_in_order(case):
    spec, model = case.dm.observation_spec(), case.dm.physics.model.ptr
    rows = {name: np.array(getattr(model, name)) for name in case.task.randomised}
    physics = Physics(model, RecordedFields(case.dm.physics.data.ptr), rows)
    observed = case.task.observe(physics)
    assert list(observed) == list(spec)
    assert [value.shape for value in observed.values()] == [part.shape for part in spec.values()]


def test_names_resolve(case):
    """Ours in the registry, and every object of the model, as suite_test.py wants it."""
    assert case.task.full_name == case.name == f"{case.task.domain}_{case.task.name}"
    assert (case.task.domain, case.task.name) in dm_suite.ALL_TASKS
    model = case.env.suite.model
    for kind, size in NAMED.items():
        count = getattr(model, size)
        names = [mujoco.mj_id2name(model, mujoco.mju_str2Type(kind), i) for i in range(count)]
        assert all(names), f"unnamed {kind}: {names}"
        assert len(set(names)) == count, kind


@pytest.mark.parametrize(
    "misspelt",
    [
        lambda physics: {"height": physics.body("torsoo").xpos[2]},
        lambda physics: {"speed": physics.sensor("torso_speed").data},
        lambda physics: {"height": physics.body("torso").xpso[2]},
    ],
)
def test_a_misspelt_name_in_a_task_stops_make(misspelt):
    walker = load_suite(find("walker_run"))
    task = Task("walker", "run", observe=misspelt, reward=walker.task.reward)
    with pytest.raises((KeyError, AttributeError)):
        NativeEngine(dataclasses.replace(walker, task=task), 1)
