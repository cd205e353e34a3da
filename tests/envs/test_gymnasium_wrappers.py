"""gymnasium's own vector wrappers over ours say what they say over its SyncVectorEnv."""

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import transform_action, transform_observation, transform_reward
from gymnasium.wrappers import vector as wrappers

import fastsac
from fastsac.envs import registry

WORLDS, LIMIT, STEPS = 3, 7, 40  # episodes of at most 7 control steps
ID = "fastsac/short-v0"
MODEL = """<mujoco>
  <option timestep="0.02" gravity="0 0 0"/>
  <worldbody><body><joint name="x" type="slide"/><geom size="0.1" mass="1"/></body></worldbody>
  <actuator><motor joint="x" ctrlrange="-1 1" gear="60"/></actuator>
</mujoco>"""
MODES = list(AutoresetMode)
WIDE = np.float32(-2), np.float32(2)
SAME, NEXT, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED
# gymnasium refuses SAME_STEP to what changes observations.
OBSERVATIONS = [NEXT, DISABLED]


@pytest.fixture(scope="module", autouse=True)
def short_task():
    """Every episode begins at the origin, so that no env's draws matter; actions end some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_TASKS", dict(registry._TASKS))
        fastsac.register(
            "short",
            MODEL,
            lambda physics: {"x": physics.qpos, "v": physics.qvel},
            lambda physics: physics.qvel[0] + 1,
            terminate=lambda physics: jnp.abs(physics.qpos[0]) > 0.1,
            time_limit=0.02 * LIMIT,
        )
        yield


@pytest.fixture(scope="module")
def made(short_task):
    """Ours and gymnasium's SyncVectorEnv of each mode."""
    kept = {}

    def get(mode):
        if mode not in kept:
            ours = gymnasium.make_vec(ID, num_envs=WORLDS, autoreset_mode=mode)
            theirs = gymnasium.make_vec(
                ID,
                num_envs=WORLDS,
                vectorization_mode="sync",
                vector_kwargs={"autoreset_mode": mode},
            )
            kept[mode] = ours, theirs
        return kept[mode]

    yield get
    for pair in kept.values():
        for env in pair:
            env.close()


def run(env, mode, scale=1.0):
    """Every result of some episodes, whose infos are dicts of arrays."""
    results = [env.reset(seed=0)]
    for action in np.random.default_rng(1).uniform(-1, 1, (STEPS, WORLDS, 1)) * scale:
        results.append(env.step(action.astype(np.float32)))
        ended = results[-1][2] | results[-1][3]
        if mode is DISABLED and ended.any():
            results.append(env.reset(options={"reset_mask": np.asarray(ended)}))
    return results


def assert_same(ours, theirs, where="result"):
    if isinstance(theirs, dict):
        for key in theirs.keys() - {"t", "_t"}:  # the wall clock
            assert_same(ours[key], theirs[key], f"{where}[{key}]")
    elif isinstance(theirs, tuple | list):
        assert len(ours) == len(theirs), where
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    elif getattr(theirs, "dtype", None) == np.dtype(object):
        assert_same(list(ours), list(theirs), where)
    elif theirs is None:
        assert ours is None, where
    else:
        assert np.shape(ours) == np.shape(theirs), where
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6, err_msg=where)


CASES = {
    "none": (lambda env: env, MODES),
    "NormalizeObservation": (wrappers.NormalizeObservation, [NEXT]),
    "NormalizeReward": (wrappers.NormalizeReward, MODES),
    "DictInfoToList": (wrappers.DictInfoToList, [SAME, NEXT]),
    "TransformObservation": (
        lambda env: wrappers.TransformObservation(env, lambda x: x * 2),
        OBSERVATIONS,
    ),
    "FlattenObservation": (wrappers.FlattenObservation, OBSERVATIONS),
    "ReshapeObservation": (lambda env: wrappers.ReshapeObservation(env, (2, 1)), OBSERVATIONS),
    "DtypeObservation": (lambda env: wrappers.DtypeObservation(env, np.float64), OBSERVATIONS),
    "VectorizeTransformObservation": (
        lambda env: wrappers.VectorizeTransformObservation(
            env, transform_observation.ReshapeObservation, shape=(1, 2)
        ),
        OBSERVATIONS,
    ),
    "TransformAction": (lambda env: wrappers.TransformAction(env, lambda a: a / 2), MODES),
    "ClipAction": (wrappers.ClipAction, MODES),
    "RescaleAction": (lambda env: wrappers.RescaleAction(env, *WIDE), MODES),
    "VectorizeTransformAction": (
        lambda env: wrappers.VectorizeTransformAction(
            env, transform_action.RescaleAction, min_action=WIDE[0], max_action=WIDE[1]
        ),
        MODES,
    ),
    "TransformReward": (lambda env: wrappers.TransformReward(env, lambda r: r - 1), MODES),
    "ClipReward": (lambda env: wrappers.ClipReward(env, 0.9, 1.1), MODES),
    "VectorizeTransformReward": (
        lambda env: wrappers.VectorizeTransformReward(
            env, transform_reward.ClipReward, min_reward=0.9, max_reward=1.1
        ),
        MODES,
    ),
    "RecordEpisodeStatistics": (wrappers.RecordEpisodeStatistics, [SAME, NEXT]),
    "several": (
        lambda env: wrappers.NormalizeReward(
            wrappers.NormalizeObservation(
                wrappers.ClipAction(wrappers.RecordEpisodeStatistics(env))
            )
        ),
        [NEXT],
    ),
}


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, mode) for name, (_, modes) in CASES.items() for mode in modes],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_wrapper_finds_what_it_knows(name, mode, made):
    wrap, scale = CASES[name][0], 1.5 if "Action" in name else 1.0
    ours, theirs = (run(wrap(env), mode, scale) for env in made(mode))
    steps = [result for result in theirs if len(result) == 5]
    assert any(step[2].any() for step in steps) and any(step[3].any() for step in steps)
    assert_same(ours, theirs)
    has_final_obs = any("final_obs" in str(result[-1]) for result in ours)
    assert has_final_obs == (mode is SAME)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_episode_statistics_are_the_rewards_sums(mode, made):
    env = wrappers.RecordEpisodeStatistics(made(mode)[0])
    results = run(env, mode)
    returns, lengths, expected = np.zeros(WORLDS), np.zeros(WORLDS, int), []
    waits = np.zeros(WORLDS, bool)
    for _, reward, terminated, truncated, info in (r for r in results if len(r) == 5):
        returns, lengths = returns + reward * ~waits, lengths + ~waits
        ended = terminated | truncated
        assert ("episode" in info) == ended.any()
        if ended.any():
            np.testing.assert_allclose(info["episode"]["r"], returns * ended, rtol=1e-6)
            np.testing.assert_array_equal(info["episode"]["l"], lengths * ended)
            if mode is SAME:
                of_env = info["final_info"]["episode"]
                np.testing.assert_allclose(of_env["r"] * ended, returns * ended, rtol=1e-6)
                np.testing.assert_array_equal(of_env["l"] * ended, lengths * ended)
            expected += list(lengths[ended])
        returns, lengths = returns * ~ended, lengths * ~ended
        waits = ended & (mode is NEXT)
    assert list(env.length_queue) == expected and len(set(expected)) > 1


def test_single_wrappers_apply(short_task):
    env = gymnasium.make(ID)
    env = gymnasium.wrappers.FrameStackObservation(env, 3)
    env = gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.wrappers.ClipAction(env))
    obs, _ = env.reset(seed=0)
    assert obs.shape == (3, 2)
    steps = 0
    while not (step := env.step(np.ones(1)))[2]:
        steps += 1
    assert step[4]["episode"]["l"] == steps + 1 <= LIMIT
    env.close()


@pytest.mark.parametrize(
    ("array", "name", "kind"),
    [
        ("jax", "JaxToNumpy", np.ndarray),
        ("jax", "JaxToTorch", torch.Tensor),
        ("numpy", "NumpyToTorch", torch.Tensor),
    ],
)
def test_arrays_are_converted_by_gymnasium_too(array, name, kind, make):
    pytest.importorskip("array_api_compat")
    env = getattr(wrappers, name)(make("short", num_envs=2, array=array))
    obs, _ = env.reset(seed=0)
    step = env.step(torch.zeros(2, 1) if kind is torch.Tensor else np.zeros((2, 1)))
    assert isinstance(obs, kind) and isinstance(step[0], kind)
