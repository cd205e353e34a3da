"""adam_polyak_ against the float64 formulas, and against torch.optim.AdamW over 1,000 steps."""

import numpy as np
import pytest
import torch

from fastsac.kernels import AdamState, adam_polyak, adam_polyak_
from fastsac.kernels.adam_polyak import fused, reference, traced

SIZES = (1, 3, 64, 255, 1023, 2049)  # a program takes 1,024
RATE, DECAY, TAU = 0.1, 0.2, 0.05  # so large that one step shows 1% of each

each = pytest.mark.parametrize("function", [fused, reference, traced])
each_dtype = pytest.mark.parametrize(
    "function, kind",
    [(fused, "float32"), (reference, "float32"), (reference, "float64"), (traced, "float32")],
    ids=["fused", "reference", "reference64", "traced"],
)


def numbers(size, kind="float32", device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(3, size, generator=generator, dtype=torch.float64)
    return tuple(x.clone().to(device, getattr(torch, kind)) for x in drawn)


def scalar(value, like):
    return torch.tensor(value, dtype=like.dtype, device=like.device)


def rate_of(value, like):
    # Always float32, which torch's AdamW demands of a GPU.
    return torch.tensor(value, dtype=torch.float32, device=like.device)


def formula(values, g, t, rate=RATE, decay=DECAY, tau=TAU):
    """Step t of p, m, v and the target, in numpy float64."""
    p, m, v, target = values
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    slope = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    p = p - rate * decay * p - rate * slope
    return p, m, v, target + tau * (p - target)


def float64(*tensors):
    return tuple(x.detach().double().cpu().numpy().copy() for x in tensors)


def squares(kind):
    return "float32 squares" if kind == "float32" else kind


def check(values, want, kind, close):
    close(values[0], want[0], kind, "parameter")
    close(values[1] * 10, want[1] * 10, kind, "exp_avg")  # at the size of a gradient
    close(values[2] * 1000, want[2] * 1000, squares(kind), "exp_avg_sq")
    close(values[3], want[3], kind, "target")


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("tau", [None, TAU, 0.7, 1.0])
@pytest.mark.parametrize("size", SIZES)
@each_dtype
def test_three_steps_equal_the_formula(function, kind, size, tau, decay, device, close):
    p, _, target = numbers(size, kind, device)
    state, rate = AdamState.of(p), rate_of(RATE, p)
    extra = (None, None) if tau is None else (target, scalar(tau, p))
    want = float64(p, *state[:2], target)
    for t in (1, 2, 3):
        g = numbers(size, kind, device, seed=t)[1]
        want = formula(want, *float64(g), t, decay=decay, tau=tau or 0.0)
        assert function(p, g, state, rate, decay, *extra, True) is None
        check((p, *state[:2], target), want, kind, close)
        assert not g.any() and state.step.item() == t and rate.item() == pytest.approx(RATE)


@each
def test_one_step_by_hand(function, device, close):
    # m = 0.1 * 2, m' = 2; v = 0.001 * 4, v' = 4; p = 1 - 0.1 * 0.5 * 1 - 0.1 * 2 / 2 = 0.85.
    # The second gradient is as small as epsilon, which halves its step: 3 - 0.15 - 0.05 = 2.8.
    p = torch.tensor([1.0, 3.0], device=device)
    g = torch.tensor([2.0, 1e-8], device=device)
    state, target = AdamState.of(p), torch.zeros_like(p)
    function(p, g, state, rate_of(0.1, p), 0.5, target, scalar(0.25, p), True)
    close(p, [0.85, 2.8], "float32")
    close(target, [0.2125, 0.7], "float32")
    close(state.exp_avg[:1], [0.2], "float32")
    close(state.exp_avg_sq[:1], [0.004], "float32")


@each
def test_a_share_of_one_copies_the_parameter_exactly(function, device):
    p, g, target = numbers(255, device=device)
    function(p, g, AdamState.of(p), rate_of(RATE, p), DECAY, target, scalar(1.0, p), True)
    assert torch.equal(target, p)


@each
def test_a_gradient_may_be_left_as_it_is(function, device):
    p, g, target = numbers(64, device=device)
    others = [x.clone() for x in (p, g, target)]
    for (a, b, c), zero in (((p, g, target), False), (others, True)):
        function(a, b, AdamState.of(a), rate_of(RATE, a), DECAY, c, scalar(TAU, a), zero)
    assert torch.equal(g, numbers(64, device=device)[1]) and not others[1].any()
    assert torch.equal(p, others[0]) and torch.equal(target, others[2])


@pytest.mark.parametrize("steps", [999, 20_000, 3_000_000])
@each_dtype
def test_late_steps_correct_their_bias_less(function, kind, steps, device, close):
    p, m, target = numbers(255, kind, device)
    state = AdamState.of(m)._replace(exp_avg=m, exp_avg_sq=m.square() + 0.1)
    state.step.fill_(steps)
    g = numbers(255, kind, device, seed=1)[1]
    want = formula(float64(p, *state[:2], target), *float64(g), steps + 1)
    function(p, g, state, rate_of(RATE, p), DECAY, target, scalar(TAU, p), True)
    assert state.step.item() == steps + 1
    check((p, state.exp_avg / 10, state.exp_avg_sq / 1000, target), (
        want[0], want[1] / 10, want[2] / 1000, want[3]
    ), kind, close)  # fmt: skip


def gradients(kind="float64", device="cpu"):
    """A thousand of them: unit noise around a drift, (1000, 65)."""
    noise = torch.randn(1000, 65, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (noise + 0.3 * noise[0]).to(device, getattr(torch, kind))


def thousand_steps(function, kind, device, rates=(1e-3, 3e-4)):
    """A parameter and its target after 500 steps at each rate, the rate changing in place."""
    p, _, target = numbers(65, kind, device)
    state, rate, tau = AdamState.of(p), rate_of(0.0, p), scalar(TAU, p)
    for t, g in enumerate(gradients(kind, device)):
        rate.fill_(rates[t // 500])
        function(p, g, state, rate, DECAY, target, tau, True)
    assert state.step.item() == 1000
    return p, target


@pytest.fixture(scope="module")
def torchs():
    p, _, target = numbers(65, "float64")
    p = torch.nn.Parameter(p)
    optimizer = torch.optim.AdamW([p], weight_decay=DECAY, foreach=False, fused=False)
    for t, p.grad in enumerate(gradients()):
        optimizer.param_groups[0]["lr"] = (1e-3, 3e-4)[t // 500]
        optimizer.step()
        target += TAU * (p.detach() - target)
    return p, target


@pytest.mark.parametrize(
    "function, kind",
    [
        # In Triton's interpreter ten seconds; its single steps are above.
        pytest.param(fused, "float32", marks=pytest.mark.slow),
        (reference, "float32"),
        (reference, "float64"),
    ],
)
def test_a_thousand_steps_equal_torchs_in_float64(function, kind, device, torchs, close):
    for got, want in zip(thousand_steps(function, kind, device), torchs, strict=True):
        close(got, want.detach(), f"{kind} weights")


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("rates", [(1.01e-3, 3e-4), (1e-3, 3.03e-4)])
def test_the_tolerance_of_a_thousand_steps_notices_one_percent(rates, kind, torchs, close):
    for got, want in zip(thousand_steps(reference, "float64", "cpu", rates), torchs, strict=True):
        with pytest.raises(AssertionError):
            close(got, want, f"{kind} weights")


@each_dtype
def test_the_tolerances_of_one_step_notice_one_percent(function, kind, device, close):
    p, g, target = numbers(64, kind, device)
    state = AdamState.of(p)
    given = float64(p, *state[:2], target), *float64(g)
    function(p, g, state, rate_of(RATE, p), DECAY, target, scalar(TAU, p), True)
    close(target, formula(*given, 1)[3], kind)
    for change in ({"rate": 1.01 * RATE}, {"decay": 1.01 * DECAY}, {"tau": 1.01 * TAU}):
        with pytest.raises(AssertionError):
            check((p, *state[:2], target), formula(*given, 1, **change), kind, close)
    close(state.exp_avg * 10, given[1], kind)
    close(state.exp_avg_sq * 1000, given[1] ** 2, squares(kind))
    for moment, want in ((state.exp_avg * 10, given[1]), (state.exp_avg_sq * 1e3, given[1] ** 2)):
        with pytest.raises(AssertionError):
            close(moment, 1.01 * want, kind)


@each
@pytest.mark.parametrize("offset", [1, 8])  # 8 floats keep the alignment that kernels like
def test_a_slice_moves_and_its_neighbours_do_not(function, offset, device):
    wholes = [torch.full((1100,), 2.0 + i, device=device) for i in range(5)]
    part = slice(offset, offset + 1025)
    p, g, m, v, target = (whole[part] for whole in wholes)
    state = AdamState.of(p)._replace(exp_avg=m, exp_avg_sq=v)
    function(p, g, state, rate_of(RATE, p), DECAY, target, scalar(TAU, p), True)
    for i, whole in enumerate(wholes):
        assert (whole[part] != 2 + i).all()
        assert (whole[:offset] == 2 + i).all() and (whole[part.stop :] == 2 + i).all()


def bits(*tensors):
    return [x.cpu().numpy().tobytes() for x in tensors]


# The last is finite, but not its square in float32; in float64 it is a gradient like any other.
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e20])
@pytest.mark.parametrize("size, at", [(1, 0), (255, 0), (255, 7), (255, 254), (2049, 2048)])
@each_dtype
def test_a_gradient_that_is_not_finite_moves_nothing(function, kind, size, at, bad, device):
    p, g, target = numbers(size, kind, device)
    bad = 1e160 if kind == "float64" and bad == 1e20 else bad
    state, rate, tau = AdamState.of(p), rate_of(RATE, p), scalar(TAU, p)
    arguments = (state, rate, DECAY, target, tau)
    for before in (0, 1):  # the very first step, and one with moments
        kept = bits(p, target, *state[:3])
        for skipped in (1, 2):
            poisoned = g.clone()
            poisoned[at] = bad
            function(p, poisoned, *arguments, skipped == 2)
            assert bits(p, target, *state[:3]) == kept
            assert state.skipped.item() == 2 * before + skipped
            assert state.skipped_in_a_row.item() == skipped
            assert poisoned[at].item() == pytest.approx(0 if skipped == 2 else bad, nan_ok=True)
        assert not poisoned.any(), "the next gradient adds to it"
        function(p, g.clone(), *arguments, True)
        assert not set(bits(p, target, *state[:3])) & set(kept)
        assert state[2:] == (before + 1, 2 * before + 2, 0)


@each_dtype
def test_skipped_steps_leave_no_trace_in_those_that_follow(function, kind, device):
    results = []
    for poison in (False, True):
        p, _, target = numbers(65, kind, device)
        state, rate, tau = AdamState.of(p), rate_of(RATE, p), scalar(TAU, p)
        for t, g in enumerate(gradients(kind, device)[:30]):
            if poison and t % 3 == 0:
                bad = g.clone()
                bad[t % 65] = (np.nan, np.inf, -np.inf)[t // 3 % 3]
                function(p, bad, state, rate, DECAY, target, tau, False)
            function(p, g.clone(), state, rate, DECAY, target, tau, True)
        results.append(bits(p, target, *state[:3]))
        assert state.skipped.item() == 10 * poison and state.skipped_in_a_row.item() == 0
    assert results[0] == results[1]


@each_dtype
@pytest.mark.parametrize("size", [1, 2049])
def test_a_norm_is_too_large_where_its_square_is(function, kind, size, device):
    limit = torch.finfo(getattr(torch, kind)).max ** 0.5
    p = numbers(size, kind, device)[0]
    for share in (0.99, 1.01):
        state, g = AdamState.of(p), torch.full_like(p, share * limit / size**0.5)
        function(p, g, state, rate_of(RATE, p), DECAY, None, None, True)
        assert state[2:] == ((1, 0, 0) if share < 1 else (0, 1, 1))
        assert p.isfinite().all() and state.exp_avg_sq.isfinite().all()


@pytest.mark.parametrize("function", [fused])
def test_one_program_adds_more_sums_than_it_takes_at_once(function, device, monkeypatch):
    monkeypatch.setattr(adam_polyak, "_BLOCK", 16)
    p, g, target = numbers(2 * 16 * 16 + 5, device=device)  # 33 sums, of which 16 at once
    for at in (0, 255, 256, 511, 512, 516):
        state, poisoned = AdamState.of(p), g.clone()
        poisoned[at], kept = np.nan, bits(p, target)
        function(p, poisoned, state, rate_of(RATE, p), DECAY, target, scalar(TAU, p), True)
        assert bits(p, target) == kept and state[2:] == (0, 1, 1)
    function(p, g, state, rate_of(RATE, p), DECAY, target, scalar(TAU, p), True)
    assert bits(p, target) != kept and state[2:] == (1, 1, 0)


@each
def test_the_scalar_parameter_of_a_temperature_skips_too(function, device):
    p = torch.tensor(0.5, device=device)
    state = AdamState.of(p)
    for t, bad in enumerate((np.nan, np.inf, -np.inf), start=1):
        function(
            p, torch.tensor(bad, device=device), state, rate_of(RATE, p), 0.0, None, None, False
        )
        assert p.item() == 0.5 and state == (0, 0, 0, t, t)
    function(p, torch.ones_like(p), state, rate_of(RATE, p), 0.0, None, None, False)
    assert p.item() == pytest.approx(0.4) and state[2:] == (1, 3, 0)


def test_the_entry_equals_the_reference_and_autograd_does_not_see_it():
    p, g, target = numbers(64)
    others = [x.clone() for x in (p, g, target)]
    rate, tau = torch.tensor(RATE), torch.tensor(TAU)
    adam_polyak_(p.requires_grad_(), g, AdamState.of(p), rate, DECAY, target, tau)
    reference(others[0], others[1], AdamState.of(p), rate, DECAY, others[2], tau, True)
    assert p.grad_fn is None and not target.requires_grad and not AdamState.of(p)[0].requires_grad
    for got, want in zip((p, g, target), others, strict=True):
        assert torch.equal(got, want)


WRONG = {
    r"\(1,\)": torch.ones(1),  # torch would broadcast it
    r"\(5,\)": torch.ones(5),
    "got .* torch.float64": torch.ones(4, dtype=torch.float64),
    "on meta": torch.ones(4, device="meta"),
    "must be contiguous": torch.ones(8)[::2],
}


@pytest.mark.parametrize("part", WRONG)
@pytest.mark.parametrize("name", ["gradient", "exp_avg", "exp_avg_sq", "target"])
def test_tensors_that_disagree_are_refused_and_nothing_moves(name, part):
    given = {n: torch.ones(4) for n in ("parameter", "gradient", "exp_avg", "exp_avg_sq", "target")}
    given[name] = WRONG[part]
    moments = {n: given.pop(n) for n in ("exp_avg", "exp_avg_sq")}
    state = AdamState.of(torch.ones(4))._replace(**moments)
    with pytest.raises(ValueError, match=f"{name} must be .*{part}|{name} {part}"):
        adam_polyak_(state=state, learning_rate=torch.tensor(0.1), tau=torch.tensor(0.5), **given)
    for tensor in (*given.values(), *state[:2]):
        assert tensor.is_meta or (tensor == 1).all()
    assert all(count == 0 for count in state[2:])


@pytest.mark.parametrize(
    "wrong", [torch.tensor(0.1, dtype=torch.float64), torch.ones(1), torch.ones((), device="meta")]
)
@pytest.mark.parametrize("name", ["learning_rate", "tau"])
def test_scalars_of_another_kind_are_refused_and_nothing_moves(name, wrong):
    p, g, target = torch.ones(3, 4)
    scalars = {"learning_rate": torch.tensor(0.1), "tau": torch.tensor(0.5), name: wrong}
    with pytest.raises(ValueError, match=rf"{name} must be \(\) torch.float32 on cpu"):
        adam_polyak_(p, g, AdamState.of(p), target=target, **scalars)
    assert all((x == 1).all() for x in (p, g, target))


@pytest.mark.parametrize("extra", [{"target": torch.ones(4)}, {"tau": torch.tensor(0.5)}])
def test_target_and_tau_come_together(extra):
    p, g = torch.ones(2, 4)
    with pytest.raises(ValueError, match="target and tau come together or not at all"):
        adam_polyak_(p, g, AdamState.of(p), torch.tensor(0.1), **extra)
    assert (p == 1).all() and (g == 1).all()
