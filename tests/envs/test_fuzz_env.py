"""Any argument to env, learner, replay and policy: one sentence, or what is documented."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastsac
from fastsac import SAC, Batch, Policy, ReplayBuffer, SACConfig

WORLDS, OBS, ACT = 3, 5, 1
REFUSALS = (TypeError, ValueError, RuntimeError)  # UserError comes from constructors alone
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
DTYPES += [torch.complex64, torch.uint8]
NUMBERS = [0.0, 1.0, -1.0, 0.3, 2.0, 1e3, 1e38, -1e38, float("nan"), float("inf"), -float("inf")]


@contextlib.contextmanager
def refused():
    """Notes whether the body was refused, with a sentence on one line."""
    seen = []
    try:
        yield seen
    except (*REFUSALS, fastsac.errors.UserError) as error:
        seen.append(error)
        text = str(error)
        assert text and "\n" not in text.strip() and len(text) < 1000, text


@st.composite
def tensors(draw, *shapes):
    """Tensors of the shapes or of others, and what is no tensor."""
    other = st.lists(st.integers(0, 4), max_size=3).map(tuple)
    shape = draw(st.one_of(st.sampled_from(shapes), st.sampled_from(shapes), other))
    if draw(st.integers(0, 9)) == 0:
        array = np.zeros(shape, draw(st.sampled_from(["f4", "f8", "i8", "O", "U3", "c8"])))
        return draw(st.sampled_from([None, "action", 1, 0.5, object(), {}, array, array.tolist()]))
    dtype = draw(st.one_of(st.just(torch.float32), st.sampled_from(DTYPES)))
    tensor = torch.zeros(shape)
    for i in range(min(tensor.numel(), 3)):
        tensor.view(-1)[i] = draw(st.sampled_from(NUMBERS))
    with np.errstate(all="ignore"):
        tensor = (
            tensor.nan_to_num(0, 9, -9).to(dtype)
            if not dtype.is_floating_point
            else tensor.to(dtype)
        )
    kind = draw(st.integers(0, 9))
    if kind == 0 and dtype.is_floating_point:
        tensor.requires_grad_()
    elif kind == 1:
        tensor = tensor.to("meta")
    elif kind == 2 and tensor.dim():
        tensor = tensor.transpose(0, -1).contiguous().transpose(0, -1)
    elif kind == 3 and tensor.dim():
        tensor = tensor.to_sparse()
    elif kind == 4:
        tensor = tensor.unsqueeze(0).expand(2, *shape)[1]
    return tensor


@pytest.fixture(scope="module")
def env():
    made = fastsac.make("cartpole_swingup", WORLDS)
    made.reset(seed=0)
    yield made
    made.close()


def check_step(env, result, action=None):
    obs, reward, terminated, truncated, info = result
    for tensor, shape, dtype in (
        (obs, (WORLDS, OBS), torch.float32),
        (info["final_obs"], (WORLDS, OBS), torch.float32),
        (reward, (WORLDS,), torch.float32),
        *((x, (WORLDS,), torch.bool) for x in (terminated, truncated, info["invalid"])),
    ):
        assert tuple(tensor.shape) == shape and tensor.dtype == dtype
        assert tensor.isfinite().all()
    assert not (info["invalid"] & ~truncated).any()
    if action is not None:  # MuJoCo takes up to 1e10
        good = (action.detach().abs() < 1e9).all(dim=1)
        bad = action.detach().isnan().any(dim=1)
        assert not info["invalid"][good].any() and info["invalid"][bad].all()


@settings(max_examples=400)
@given(action=tensors((WORLDS, ACT)), split=st.booleans())
def test_actions(env, action, split):
    with refused() as refusal:
        if split:
            env.send(action)
            result = env.recv()
        else:
            result = env.step(action)
    right = isinstance(action, torch.Tensor) and action.dtype == torch.float32
    right = right and tuple(action.shape) == (WORLDS, ACT) and action.device.type == "cpu"
    right = right and not action.is_sparse
    assert bool(refusal) != right, refusal
    if right:
        check_step(env, result, action)
    check_step(env, env.step(torch.zeros(WORLDS, ACT)), torch.zeros(WORLDS, ACT))


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(0, 9), st.floats(), st.text(max_size=5),
    st.sampled_from([2**64, 10**100, -1, np.int64(3), np.float32(1), b"x", (), [], {}, object()]),
    st.lists(st.sampled_from(["spread_clocks", 1, "x"]), max_size=2),
)  # fmt: skip


any_options = st.dictionaries(
    st.sampled_from(["spread_clocks", "reset_mask", "spread", 1, None]),
    st.one_of(anything, st.booleans()),
    max_size=2,
)
make_arguments = st.dictionaries(
    st.sampled_from("num_envs engine device seed solver randomize array autoreset_mode".split()),
    st.one_of(
        anything,
        st.sampled_from(
            [10**9, *"cpu cuda cpu:0 meta cuda:x native fast numpy jax Disabled".split()]
        ),
    ),
    min_size=1,
    max_size=3,
)
make_tasks = st.one_of(
    st.just("cartpole_balance"),
    st.sampled_from(["walker_rum", "a/b.py", "\0.py", "\0"]),
    anything,
)


@settings(max_examples=80)
@given(
    st.one_of(anything, st.integers(0, 99), st.none()),
    st.one_of(anything, st.none(), any_options),
)
def test_reset(env, seed, options):
    with refused() as refusal:
        obs, info = env.reset(seed=seed, options=options)
    fine = seed is None or (type(seed) in (int, np.int64) and seed >= 0)
    fine = fine and (
        options is None or (isinstance(options, dict) and not options.keys() - {"spread_clocks"})
    )
    fine = fine and (not options or type(options["spread_clocks"]) is bool)
    assert bool(refusal) != fine, (seed, options, refusal)
    if fine:
        assert tuple(obs.shape) == (WORLDS, OBS) and obs.isfinite().all()
        assert tuple(info["clocks"].shape) == (WORLDS,) and info["clocks"].dtype == torch.int64


CALLS = "reset step send recv get_state set_state state_dict step send recv send recv".split()
SHAPES = {
    "qpos": (WORLDS, 2),
    "qvel": (WORLDS, 2),
    "act": (WORLDS, 0),
    "qacc_warmstart": (WORLDS, 2),
}


@settings(max_examples=300)
@given(data=st.data())
def test_set_state(env, data):
    names = st.sampled_from([*SHAPES, *SHAPES, "qpso", 1, None])
    chosen = data.draw(st.lists(names, max_size=3, unique=True))
    state = {name: data.draw(tensors(SHAPES.get(name, (WORLDS, 2)))) for name in chosen}
    if data.draw(st.integers(0, 19)) == 0:
        state = data.draw(st.sampled_from([None, [], "qpos", 7, [("qpos", 1)]]))
    env.set_state({name: torch.zeros(shape) for name, shape in SHAPES.items()})
    before = env.get_state()
    with refused() as refusal:
        obs = env.set_state(state)
    if refusal:
        after = env.get_state()
        assert all(torch.equal(before[k], after[k]) for k in before)
    else:
        assert set(state) <= set(SHAPES)
        assert all(tuple(np.shape(v)) == SHAPES[k] for k, v in state.items())
        assert tuple(obs.shape) == (WORLDS, OBS) and obs.dtype == torch.float32
    check_step(env, env.step(torch.zeros(WORLDS, ACT)))


@settings(max_examples=150)
@given(
    calls=st.lists(
        st.sampled_from(CALLS),
        min_size=1,
        max_size=8,
    )
)
def test_order_of_calls(env, calls):
    sent, action = False, torch.zeros(WORLDS, ACT)
    arguments = {"step": (action,), "send": (action,), "set_state": ({},)}
    for call in calls:
        right = call == "reset" or sent == (call == "recv")
        with refused() as refusal:
            result = getattr(env, call)(*arguments.get(call, ()))
        assert bool(refusal) != right and all(type(e) is RuntimeError for e in refusal)
        if right:
            sent = call == "send"
            if call in ("step", "recv"):
                check_step(env, result, action)
    if sent:
        env.recv()


def test_a_closed_or_new_env_refuses_all():
    env = fastsac.make("cartpole_swingup", WORLDS)
    action = torch.zeros(WORLDS, ACT)
    calls = [lambda: env.step(action), lambda: env.send(action), env.recv, env.get_state]
    calls += [lambda: env.set_state({}), env.state_dict]
    for then in (None, env.close):
        if then:
            then()
            calls += [env.reset]
        for call in calls:
            with pytest.raises(RuntimeError, match="^[^\n]+$"):
                call()


@settings(max_examples=150)
@given(make_tasks, make_arguments)
def test_make(task, arguments):
    if type(n := arguments.get("num_envs")) is int and 100 < n < 10**9:
        arguments["num_envs"] = 10**9
    with refused() as refusal:
        made = fastsac.make(task, **arguments)
    if not refusal:
        assert task == "cartpole_balance" and made.num_envs == arguments.get("num_envs", 1)
        assert type(made.num_envs) is int and made.device.type == "cpu"
        made.close()


AGENT = SAC(OBS, ACT, SACConfig(hidden_sizes=(8,)))


@settings(max_examples=200)
@given(tensors((2, OBS), (0, OBS)), st.booleans())
def test_act(obs, deterministic):
    with refused() as refusal:
        action = AGENT.act(obs, deterministic)
    right = (
        isinstance(obs, torch.Tensor) and obs.dtype == torch.float32 and obs.device.type == "cpu"
    )
    right = right and obs.dim() == 2 and obs.shape[1] == OBS and not obs.is_sparse
    assert bool(refusal) != right, refusal
    if right:
        assert tuple(action.shape) == (len(obs), ACT) and not action.requires_grad
        usual = obs.detach().abs().amax(dim=1) < 1e6
        assert (action[usual].abs() <= 1).all()


def policy():
    return Policy.snapshot(AGENT, "toy")


@settings(max_examples=200)
@given(tensors((2, OBS), (OBS,), (0, OBS)))
def test_policy(obs):
    with refused() as refusal:
        action = policy()(obs)
    if not refusal:
        assert np.shape(action) == (*np.shape(obs)[:-1], ACT)
        assert np.shape(obs)[-1] == OBS and str(action.dtype).endswith("float32")
        assert "complex" not in str(getattr(obs, "dtype", ""))


COLUMNS = {"obs": (2, OBS), "action": (2, ACT), "reward": (2,), "terminated": (2,)}
COLUMNS |= {"next_obs": (2, OBS), "weight": (2,), "steps": (2,)}
good = {name: torch.full(shape, 0.5) for name, shape in COLUMNS.items()}


@settings(max_examples=200)
@given(st.data())
def test_replay_and_update(data):
    name = data.draw(st.sampled_from([*COLUMNS]))
    value = data.draw(tensors(COLUMNS[name]))
    changed = good | {name: value}
    replay, weights = ReplayBuffer(4, OBS, ACT), AGENT.actor_flat.clone()
    with refused() as refusal:
        replay.add(**changed)
    assert len(replay) == int(replay.size) == (0 if refusal else 2)
    if not refusal:
        assert value is None or tuple(value.shape) == COLUMNS[name]
    with refused() as refusal:
        metrics = AGENT.update(Batch(**changed))
    if refusal:
        assert torch.equal(AGENT.actor_flat, weights)
    else:
        assert value.dtype == torch.float32 and tuple(value.shape) == COLUMNS[name]
        assert all(x.dim() == 0 for x in metrics.values())
    assert AGENT.actor_flat.isfinite().all() and AGENT.critics_flat.isfinite().all()


@settings(max_examples=150)
@given(anything, anything, anything)
def test_sizes(one, two, three):
    replay = ReplayBuffer(4, OBS, ACT)
    replay.add(**good)
    with refused() as refusal:
        batch = replay.sample(one if type(one) is not int else min(one, 1000))
    assert bool(refusal) != (type(one) in (int, np.int64) and one >= 1)
    assert refusal or tuple(batch.obs.shape)[1:] == (OBS,)
    builds = [lambda: ReplayBuffer(one, two, 1), lambda: AGENT.update(one)]
    if type(three) is not int or three < 100 or three >= 2**31:  # no gigabytes of weights
        builds += [lambda: SAC(3, three), lambda: SAC(three, 1)]
    for build in builds:
        with refused():
            build()


@pytest.mark.parametrize("size", [0, -1, True, 2.0, None, "3", 2**31, 10**30])
def test_sizes_that_are_none(size):
    for build in (lambda: SAC(size, 1), lambda: SAC(3, size), lambda: ReplayBuffer(size, size, 1)):
        with pytest.raises(fastsac.errors.ConfigError):
            build()
