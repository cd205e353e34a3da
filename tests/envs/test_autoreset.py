"""The three autoreset modes show the same episodes, and worlds begin anew where a mask says so."""

import io

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import fastsac

WORLDS, STEPS = 3, 340  # the first episode ends with the 334th
QUICK = [("native", "reacher_hard")]
CASES = [*QUICK, ("native", "lqr_lqr_2_1"), ("mjx", "pendulum_swingup"), ("warp", "reacher_hard")]


def cases(cases):
    """The engines for a GPU compile for a minute."""
    return pytest.mark.parametrize(
        ("engine", "task"),
        [pytest.param(*c, marks=() if c[0] == "native" else pytest.mark.slow) for c in cases],
    )


@pytest.fixture
def in_mode(make):
    def build(mode, engine="native", task="reacher_hard"):
        return make(task, num_envs=WORLDS, engine=engine, autoreset_mode=mode)

    return build


def run(env, actions, steps=STEPS):
    """Obs, reward and truncated of each step; episodes that ended are begun by mask, if need be."""
    obs, _ = env.reset(seed=2, options={"spread_clocks": True})
    rows = []
    for action in actions(env, steps):
        obs, reward, terminated, truncated, info = env.step(action)
        rows.append((obs.clone(), reward, truncated, info["final_obs"]))
        ended = terminated | truncated
        assert torch.equal(info["_final_obs"], ended)
        if env.autoreset_mode is AutoresetMode.DISABLED and ended.any():
            rows[-1] = (env.reset(options={"reset_mask": ended})[0], *rows[-1][1:])
    return rows


@cases([("native", "reacher_hard"), ("mjx", "pendulum_swingup"), ("warp", "reacher_hard")])
def test_the_modes_have_the_same_episodes(engine, task, in_mode, actions):
    same, disabled, later = (
        run(in_mode(mode, engine, task), actions) for mode in ("SAME_STEP", "Disabled", "NextStep")
    )
    (end,) = (i for i, step in enumerate(same) if step[2].any())
    assert same[end][2].tolist() == [False, False, True]
    # What XLA compiles rounds otherwise beside other operations: 1.3e-6 after 340 steps.
    near = dict(rtol=0, atol=0 if engine == "native" else 1e-4)
    for ours, theirs in zip(same, disabled, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, **near)
    # NEXT_STEP shows the end first, then the start, for which the others have no step of their own.
    torch.testing.assert_close(later[end][0][2], same[end][3][2], **near)
    torch.testing.assert_close(later[end + 1][0][2], same[end][0][2], **near)
    assert later[end + 1][1][2] == 0 and not later[end + 1][2].any()
    for ours, theirs in zip(same, later, strict=True):  # and nothing of it concerns the others
        for a, b in zip(ours[:2], theirs[:2], strict=True):
            torch.testing.assert_close(a[:2], b[:2], **near)


def test_a_step_that_resets_ignores_its_action(in_mode):
    env = in_mode(AutoresetMode.NEXT_STEP)
    env.reset(seed=0, options={"spread_clocks": True})
    action = torch.zeros(WORLDS, 2)
    while not env.step(action)[3].any():
        pass
    action[2] = float("nan")
    kept = action.clone()
    _, _, _, truncated, info = env.step(action)
    assert not truncated.any() and not info["invalid"].any()
    assert torch.equal(action.nan_to_num(9), kept.nan_to_num(9))  # the caller's stays
    assert env.step(action)[4]["invalid"].tolist() == [False, False, True]


def test_without_autoreset_an_ended_world_waits_for_a_reset(in_mode):
    env = in_mode("DISABLED")
    obs, _ = env.reset(seed=0)
    action = torch.zeros(WORLDS, 2)
    action[1, 0] = float("nan")
    last, _, _, truncated, _ = env.step(action)
    assert truncated.tolist() == [False, True, False] and (last[1] == 0).all()
    with pytest.raises(RuntimeError, match="worlds 1 have ended.*reset_mask"):
        env.step(torch.zeros(WORLDS, 2))
    again, info = env.reset(options={"reset_mask": torch.tensor([True, False, False])})
    assert torch.equal(again[1:], last[1:])  # zeros too, though the state is none of the task's
    assert info["clocks"].tolist() == [0, 1, 1]
    again, _ = env.reset(options={"reset_mask": [False, True, False]})
    assert not (again[1] == 0).all()
    env.step(torch.zeros(WORLDS, 2))


@cases(CASES)
@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_a_mask_begins_some_worlds(engine, task, mode, in_mode, actions, few_states_ahead):
    env = in_mode(mode, engine, task)
    env.reset(seed=0)
    for action in actions(env, 5):
        obs = env.step(action)[0]
    before = env.get_state()
    mask = np.array([False, True, False])
    again, info = env.reset(options={"reset_mask": mask})
    after = env.get_state()
    torch.testing.assert_close(again[[0, 2]], obs[[0, 2]], rtol=1e-5, atol=1e-6)
    assert info["clocks"].tolist() == [5, 0, 5]
    for name, values in before.items():
        assert torch.equal(values[[0, 2]], after[name][[0, 2]])
    assert not torch.equal(before["qpos"][1], after["qpos"][1])
    # A second mask shows the first one's beginnings as they were.
    other = env.reset(options={"reset_mask": ~mask})[0]
    torch.testing.assert_close(other[1], again[1], rtol=1e-5, atol=1e-6)
    after = env.get_state()
    # From there all go on as worlds of these states do.
    action = actions(env, 1, seed=1)[0]
    ours = env.step(action)[0]
    env.set_state(after)
    torch.testing.assert_close(env.step(action)[0], ours, rtol=1e-4, atol=1e-4)


def test_masks_and_seeds_together(in_mode):
    env = in_mode("Disabled")
    of_seven = env.reset(seed=7)[0][0]
    first, _ = env.reset(seed=3)
    mask = np.array([False, True, False])
    obs, _ = env.reset(seed=[None, 7, None], options={"reset_mask": mask})
    assert torch.equal(obs[1], of_seven) and torch.equal(obs[[0, 2]], first[[0, 2]])
    everywhere = {"reset_mask": np.ones(WORLDS, bool)}
    assert torch.equal(env.reset(seed=3, options=everywhere)[0], first)
    assert not torch.equal(env.reset(options=everywhere)[0], first)
    with pytest.raises(ValueError, match="beside a reset_mask seed is a list"):
        env.reset(seed=3, options={"reset_mask": mask})


@pytest.mark.parametrize(
    "mask", [np.zeros(3, bool), np.ones(2, bool), np.ones(3), [[True] * 3], "all", True]
)
def test_masks_that_are_none_get_a_sentence(mask, in_mode):
    env = in_mode("SameStep")
    env.reset()
    with pytest.raises(ValueError, match=r"reset_mask must be \(3,\) bool with a True"):
        env.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="for all worlds"):
        env.reset(options={"reset_mask": np.ones(3, bool), "spread_clocks": True})


def test_a_mask_needs_a_reset_before_it(in_mode):
    env = in_mode("SameStep")
    with pytest.raises(RuntimeError, match="reset"):
        env.reset(options={"reset_mask": np.array([True, False, False])})
    env.reset(options={"reset_mask": np.ones(3, bool)})  # which is all of them


def test_a_saved_env_remembers_who_waits(in_mode, actions):
    env, other = in_mode("NextStep"), in_mode("NextStep")
    env.reset(seed=0, options={"spread_clocks": True})
    while not env.step(torch.zeros(WORLDS, 2))[3].any():
        pass
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for action in actions(env, 3):
        for a, b in zip(env.step(action)[:4], other.step(action)[:4], strict=True):
            assert torch.equal(a, b)


def test_an_unknown_mode_gets_a_sentence():
    for mode in ("same", None, []):
        with pytest.raises(ValueError, match="NEXT_STEP, SAME_STEP, DISABLED"):
            fastsac.make("reacher_hard", autoreset_mode=mode)


def test_a_state_of_another_mode_is_refused_and_costs_nothing(make):
    same, next_step = (
        make("cartpole_balance", num_envs=2, autoreset_mode=mode)
        for mode in ("SAME_STEP", "NEXT_STEP")
    )
    for env, other in ((same, next_step), (next_step, same)):
        env.reset(seed=0)
        other.reset(seed=1)
        with pytest.raises(ValueError, match="another autoreset_mode"):
            other.load_state_dict(env.state_dict())
        other.step(torch.zeros(2, 1))
