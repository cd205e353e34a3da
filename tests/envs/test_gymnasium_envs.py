"""gymnasium.make and make_vec: ids, spaces, info, pictures, copies, and gymnasium's own checks."""

import contextlib
import copy
import multiprocessing
import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence

import fastsac
from fastsac.envs import registry

TASK, ID = "pendulum_swingup", "fastsac/pendulum_swingup-v0"


@pytest.fixture
def vec():
    """gymnasium.make_vec of pendulum_swingup or another id, closed at the end of the test."""
    made = []

    def build(name=ID, num_envs=3, **kwargs):
        made.append(gymnasium.make_vec(name, num_envs=num_envs, **kwargs))
        return made[-1]

    yield build
    for env in made:
        env.close()


@pytest.fixture
def single():
    made = []

    def build(name=ID, **kwargs):
        made.append(gymnasium.make(name, **kwargs))
        return made[-1]

    yield build
    for env in made:
        env.close()


def run_to_an_end(env, seed=1):
    """Steps until a world's episode ends; with spread clocks the third's does first."""
    env.reset(seed=seed, options={"spread_clocks": True})
    rewards = []
    for _ in range(340):
        step = env.step(np.full(env.action_space.shape, 0.5, np.float32))
        rewards.append(step[1])
        if step[3].any():
            return step, np.sum(rewards, axis=0, dtype=np.float64)
    raise AssertionError("no episode ended")


def test_every_task_has_an_id():
    for task in fastsac.tasks():
        spec = gymnasium.spec(f"fastsac/{task}-v0")
        assert spec.kwargs == {"task": task} and not spec.nondeterministic


def test_a_task_of_ones_own_has_an_id(vec):
    model = """<mujoco><worldbody><body><joint name="x" type="slide" damping="1"/><geom size="1"/>
      </body></worldbody><actuator><motor joint="x" ctrlrange="-1 1"/></actuator></mujoco>"""
    observe = {"at": lambda physics: {"x": physics.qpos}}["at"]
    fastsac.register("own-task", model, observe, lambda physics: physics.qpos[0])
    env = vec("fastsac/own-task-v0")
    assert env.single_observation_space.shape == (1,) and env.spec.name == "own-task"
    env.reset(seed=0)
    env.step(env.action_space.sample())


def test_a_task_by_number_and_an_engine_are_arguments(vec):
    env = vec(ID, task="lqr_lqr_3_1", engine="native")
    assert env.unwrapped.suite.task.name == "lqr_3_1"


def test_ids_are_there_with_the_import_that_the_id_names():
    code = (
        "import gymnasium\n"
        f"print(gymnasium.make('fastsac.envs:{ID}').spec.id)\n"
        f"print(gymnasium.make_vec('{ID}', num_envs=2).spec.id)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [ID, ID]


def test_a_vector_env_is_numpys_dress(vec, make):
    env, ours = vec(seed=4), make(TASK, num_envs=3, array="numpy", seed=4)
    assert env.spec.id == ID and env.render_mode is None and env.render() is None
    assert env.metadata["autoreset_mode"] is env.unwrapped.autoreset_mode
    assert env.metadata["render_fps"] == 50  # Hz: a control step of 0.02 s
    np.testing.assert_array_equal(env.reset()[0], ours.reset()[0])
    action = env.action_space.sample()
    for a, b in zip(env.step(action)[:4], ours.step(action)[:4], strict=True):
        np.testing.assert_array_equal(a, b)
    assert env.reset()[0] in env.observation_space


def test_unseeded_envs_differ_and_a_seed_fixes_them(vec, single):
    one, two = vec(), vec()
    assert not np.array_equal(one.reset()[0], two.reset()[0])
    np.testing.assert_array_equal(one.reset(seed=9)[0], two.reset(seed=np.int64(9))[0])
    assert one.np_random_seed == two.np_random_seed == 9
    alone, other = single(), single()
    assert not np.array_equal(alone.reset()[0], other.reset()[0])
    np.testing.assert_array_equal(alone.reset(seed=9)[0], one.reset(seed=9)[0][0])
    assert not np.array_equal(alone.reset()[0], alone.reset()[0])


def test_info_of_an_ended_world_is_as_gymnasium_has_it(vec):
    env = vec()
    (obs, _, _, truncated, info), returns = run_to_an_end(env)
    mask = [False, False, True]
    assert truncated.tolist() == mask
    assert all(info[key].tolist() == mask for key in ("_final_obs", "_final_info"))
    assert [type(x) for x in info["final_obs"]] == [type(None), type(None), np.ndarray]
    assert info["final_obs"].dtype == object and info["final_obs"][2].shape == (3,)
    assert not np.array_equal(info["final_obs"][2], obs[2])
    last = info["final_info"]
    assert last["_episode"].tolist() == last["_clocks"].tolist() == mask
    assert last["clocks"][2] == last["episode"]["l"][2] == 1000
    assert info["clocks"].tolist() == [334, 667, 0] and not info["invalid"].any()
    assert last["episode"]["r"][2] == pytest.approx(returns[2], rel=1e-6)
    info = env.step(env.action_space.sample())[4]
    assert info.keys() == {"clocks", "_clocks", "invalid", "_invalid"}
    assert info["clocks"].tolist() == [335, 668, 1]


def test_gymnasiums_own_vectorizer_says_the_same(vec):
    """Over three single envs: their results and the form of their info."""
    ours = vec(seed=0)
    theirs = vec(
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
        max_episode_steps=4,
    )
    seeds = [5, 6, 7]
    np.testing.assert_array_equal(ours.reset(seed=seeds)[0], theirs.reset(seed=seeds)[0])
    for step in range(4):
        action = ours.action_space.sample()
        mine, other = ours.step(action), theirs.step(action)
        if step < 3:
            for a, b in zip(mine[:2], other[:2], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6)
    info = ours.step(ours.action_space.sample())[4]
    at_an_end = {"final_obs", "_final_obs", "final_info", "_final_info"}
    assert other[4].keys() - at_an_end <= info.keys() == ours.reset()[1].keys()
    ended = run_to_an_end(ours)[0][4]
    assert other[4].keys() <= ended.keys()
    assert other[4]["final_obs"].dtype == ended["final_obs"].dtype == object
    assert other[4]["final_info"].keys() <= ended["final_info"].keys()


@pytest.mark.parametrize("mode", ["NEXT_STEP", "DISABLED"])
def test_the_other_modes_have_no_final_obs(mode, vec):
    env = vec(autoreset_mode=mode)
    (obs, _, _, _, info), _ = run_to_an_end(env)
    assert env.metadata["autoreset_mode"].name == mode
    assert info.keys() == {"clocks", "_clocks", "invalid", "_invalid"}
    assert info["clocks"].tolist() == [334, 667, 1000]
    if mode == "DISABLED":
        mask = np.array([False, False, True])
        again, info = env.reset(options={"reset_mask": mask})
    else:
        again, _, _, _, info = env.step(env.action_space.sample())
    assert info["clocks"][2] == 0 and not np.array_equal(again[2], obs[2])


@pytest.mark.filterwarnings("ignore:.*Box observation space m.* value is")
@pytest.mark.parametrize("task", ["pendulum_swingup", "reacher_hard", "cheetah_run"])
@pytest.mark.filterwarnings("error")
def test_gymnasiums_checker_finds_nothing(task, single):
    env = single(f"fastsac/{task}-v0", render_mode="rgb_array")
    env.reset()
    renders = task == TASK  # a process that draws takes two seconds to start
    try:
        if renders:
            env.render()
    except RuntimeError as error:
        assert "OpenGL" in str(error)
        renders = False
    check_env(env.unwrapped, skip_render_check=not renders)


def test_a_single_env_ends_and_says_what_is_wrong(single):
    env = single(render_mode=None, max_episode_steps=2)
    assert env.render_mode is None and env.unwrapped.render() is None
    env.reset(seed=0)
    obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert isinstance(reward, float) and truncated is terminated is False
    assert obs in env.observation_space and info == {"invalid": False}
    assert env.step([0])[3] is True  # gymnasium's own limit; ours is dm_control's
    inner = env.unwrapped
    inner.reset()
    assert [inner.step([0.5])[3] for _ in range(1000)] == [False] * 999 + [True]
    with pytest.raises(RuntimeError, match="ended"):
        inner.step([0.5])
    inner.reset()
    assert inner.step([np.nan])[3:] == (True, {"invalid": True})
    for bad, error in (([0, 0], ValueError), (["a"], TypeError)):
        inner.reset()
        with pytest.raises(error, match="action must"):
            inner.step(bad)
    with pytest.raises(ValueError, match="there are none"):
        inner.reset(options={"reset_mask": [True]})


@pytest.mark.parametrize("build", [gymnasium.make, gymnasium.make_vec])
def test_bad_arguments_get_a_sentence(build):
    with pytest.warns(UserWarning) if build is gymnasium.make else contextlib.nullcontext():
        with pytest.raises(ValueError, match="unknown render_mode 'depth'; there are None"):
            build(ID, render_mode="depth")
    with pytest.raises(ValueError, match="height must be an integer of at least 1"):
        build(ID, height=0)
    with pytest.raises(registry.UnknownTask, match="did you mean walker_run"):
        build(ID, task="walker_rum")


def test_copies_begin_anew_with_the_same_arguments(vec, make, single):
    for env in (vec(seed=3, autoreset_mode="NEXT_STEP"), make(TASK, num_envs=2, seed=3)):
        first = env.reset()[0]
        for other in (copy.copy(env), copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
            assert type(other) is type(env) and other.spec == env.spec
            assert other.autoreset_mode is env.autoreset_mode
            assert (other.reset()[0] == first).all()
            other.close()
    env = single()
    obs, _ = env.reset(seed=1)
    env.step(env.action_space.sample())
    for other in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert other.spec == env.spec
        np.testing.assert_array_equal(other.reset(seed=1)[0], obs)
        other.close()
    assert isinstance(make(TASK).reset()[0], torch.Tensor)


def _first_obs(pickled, queue):
    queue.put(pickle.loads(pickled).reset(seed=1)[0])


def test_an_env_goes_to_another_process(vec):
    env = vec()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_first_obs, args=(pickle.dumps(env), queue))
    process.start()
    found = queue.get(timeout=120)
    process.join(timeout=60)
    np.testing.assert_array_equal(found, env.reset(seed=1)[0])


def test_an_env_made_by_hand_cannot_be_copied(make):
    env = make(TASK)
    env.remake = None
    with pytest.raises(TypeError, match=r"only what fastsac\.make returned"):
        copy.copy(env)


def test_specs_make_the_env_again(vec):
    env = vec(seed=2)
    again = gymnasium.make_vec(env.spec)
    assert again.num_envs == 3
    np.testing.assert_array_equal(again.reset()[0], env.reset()[0])
    assert data_equivalence(again.spec.kwargs, env.spec.kwargs)
    again.close()


def test_pictures(vec, single):
    env = vec(render_mode="rgb_array", width=40, height=30)
    env.reset(seed=0)
    try:
        frames = env.render()
    except RuntimeError as error:
        pytest.skip(str(error))
    alone = single(render_mode="rgb_array", width=40, height=30)
    alone.reset(seed=0)
    assert len(frames) == 3 and frames[0].shape == (30, 40, 3)
    np.testing.assert_array_equal(alone.render(), frames[0])


def test_a_state_dict_holds_the_episodes_returns_and_lengths(vec):
    env, other = vec("fastsac/cartpole_balance-v0"), vec("fastsac/cartpole_balance-v0")
    env.reset(seed=1, options={"spread_clocks": True})
    action = np.full(env.action_space.shape, 0.5, np.float32)
    for _ in range(300):
        env.step(action)
    other.unwrapped.load_state_dict(env.unwrapped.state_dict())
    ends = []
    for _ in range(60):
        infos = [e.step(action)[4] for e in (env, other)]
        assert data_equivalence(*(info["clocks"] for info in infos))
        if "final_info" in infos[0]:
            ends.append([info["final_info"]["episode"] for info in infos])
    assert ends and all(data_equivalence(*pair) for pair in ends)
    assert 300 < ends[0][0]["l"].max() and ends[0][0]["r"].max() > 0


@pytest.mark.parametrize("name", ["array", "num_envs", "autoreset_mode"])
def test_what_gymnasium_fixes_is_refused(name):
    task = "fastsac.envs:fastsac/pendulum_swingup-v0"
    with pytest.raises(ValueError, match=f"this env takes no {name}"):
        gymnasium.make(task, **{name: "numpy"})
    if name == "array":
        with pytest.raises(ValueError, match="this env takes no array"):
            gymnasium.make_vec(task, num_envs=2, array="numpy")


def test_spread_clocks_goes_with_one_seed(vec):
    env = vec()
    with pytest.raises(ValueError, match="goes with one seed, not with one a world"):
        env.reset(seed=[1, 2, 3], options={"spread_clocks": True})
