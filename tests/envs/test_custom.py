"""Wrong arguments of register, and functions that return or read what no engine can compile."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import fastsac

MODEL = """<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <geom name="floor" type="plane" size="2 2 0.1"/>
    <body><joint name="x" type="slide"/><geom size="0.1" mass="2"/></body>
  </worldbody>
  <actuator><motor name="m" joint="x" ctrlrange="-1 1"/></actuator>
</mujoco>"""


def register(**changes):
    task = dict(name="odd", mjcf=MODEL, time_limit=1.0)
    task |= dict(observe=lambda p: {"x": p.qpos}, reward=lambda p: p.qpos[0])
    fastsac.register(**task | changes)


def branches(physics):
    return 1.0 if physics.qpos[0] > 0 else 0.0


CANNOT = "does what cannot be compiled .*: write it with jax.numpy"
WRONG = {
    "terminate gives a float": (
        dict(terminate=lambda p: p.qpos[0]),
        "terminate must return True or False, got float",
    ),
    "terminate gives an int": (dict(terminate=lambda p: 1), "must return True or False, got int"),
    "terminate gives None": (dict(terminate=lambda p: None), "terminate must .* this is None"),
    "terminate gives several": (dict(terminate=lambda p: p.qpos > 0), r"got an array of \(1,\)"),
    "terminate branches": (dict(terminate=lambda p: bool(p.qpos[0] > 0)), f"terminate {CANNOT}"),
    "reward gives None": (dict(reward=lambda p: None), "a scalar, and this is None"),
    "reward gives several": (dict(reward=lambda p: p.qpos), r"reward must .* an array of \(1,\)"),
    "reward gives a list": (dict(reward=lambda p: [1.0]), "reward must .* and this is a list"),
    "reward gives text": (dict(reward=lambda p: np.str_("1")), "reward must .* array of <U1"),
    "reward is complex": (dict(reward=lambda p: p.qpos[0] * 1j), "reward must .* of complex"),
    "reward branches": (dict(reward=branches), f"reward {CANNOT}"),
    "reward uses numpy": (dict(reward=lambda p: np.sin(p.qpos)[0]), f"reward {CANNOT}"),
    "reward loops": (dict(reward=lambda p: sum(range(int(p.qpos[0])))), f"reward {CANNOT}"),
    "observe gives a list": (dict(observe=lambda p: [p.qpos]), "a dict of arrays, got list"),
    "observe gives an array": (dict(observe=lambda p: p.qpos), "observe must return a dict of arr"),
    "observe gives None": (dict(observe=lambda p: None), "a dict of arrays, got NoneType"),
    "observe holds a list": (dict(observe=lambda p: {"x": [1.0]}), "its 'x' is a list"),
    "observe holds a tuple": (dict(observe=lambda p: {"x": (p.qpos,)}), "its 'x' is a tuple"),
    "observe is nested": (dict(observe=lambda p: {"x": {"y": p.qpos}}), "its 'x' is a dict"),
    "observe holds None": (dict(observe=lambda p: {"x": None}), "its 'x' is None"),
    "observe holds nothing": (dict(observe=lambda p: {}), "observe returns no numbers"),
    "observe masks": (dict(observe=lambda p: {"x": p.qpos[p.qpos > 0]}), f"observe {CANNOT}"),
    "contacts": (dict(reward=lambda p: p.contact.dist[0]), "physics.contact is no array"),
    "an actuator": (dict(reward=lambda p: p.actuator("m").force), "physics.actuator is no array"),
    "constraints": (dict(reward=lambda p: p.efc_force.sum()), "reward reads physics.efc_force: "),
    "constraints seen": (dict(observe=lambda p: {"f": p.efc_J}), "observe reads physics.efc_J: "),
    "no text": (dict(mjcf=""), "mjcf is empty"),
    "blank text": (dict(mjcf=" \n"), "mjcf is empty"),
    "only a mark": (dict(mjcf="\ufeff"), "mjcf is empty"),
    "bytes": (dict(mjcf=MODEL.encode()), "XML, the path of a file or an MjSpec, got bytes"),
    "no model": (dict(mjcf=None), "path of a file or an MjSpec, got NoneType"),
    "a directory": (dict(mjcf="."), "odd: "),
    "a zero byte": (dict(mjcf="a\0b"), "mjcf is no path"),
    "no function": (dict(observe=None), "observe must be a function, got None"),
    "a reward of 1": (dict(reward=1.0), "reward must be a function, got 1.0"),
    "a terminate of False": (dict(terminate=False), "terminate must be a function, got False"),
    "a name of no text": (dict(name=3), "letters, digits, - and _, got 3"),
    "a field alone": (dict(randomised="geom_size"), "must be a list of names, got 'geom_size'"),
    "a time in words": (dict(time_limit="long"), "must be a positive number, got 'long'"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_a_task_is_one_sentence_that_names_it(changes, words):
    before = fastsac.tasks()
    with pytest.raises(ValueError, match=words) as error:
        register(**changes)
    sentence = str(error.value)
    assert "\n" not in sentence and len(sentence) < 300
    assert "name" in changes or sentence.startswith("task odd: ")
    assert fastsac.tasks() == before


RIGHT = {
    "Python's numbers": dict(reward=lambda p: 1.0, terminate=lambda p: False),
    "a bool reward": dict(reward=lambda p: p.qpos[0] > 0),
    "numpy's constants": dict(reward=lambda p: np.float64(2), observe=lambda p: {"x": np.ones(2)}),
    "integers": dict(observe=lambda p: {"n": jnp.int32(3), "x": p.qpos}, reward=lambda p: 1),
    "forces of actuators": dict(reward=lambda p: p.actuator_force[p.model.actuator("m").id]),
    "a byte order mark": dict(mjcf="\ufeff" + MODEL),
}


@pytest.mark.parametrize("changes", RIGHT.values(), ids=RIGHT.keys())
def test_what_can_be_a_task_runs(changes):
    import torch

    register(**changes)
    env = fastsac.make("odd", 2, engine="native")
    try:
        obs, _ = env.reset()
        obs, reward, terminated, _, info = env.step(torch.zeros(2, 1))
        assert obs.isfinite().all() and reward.isfinite().all() and not info["invalid"].any()
    finally:
        env.close()


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    file = Path(tmp_path) / "model.xml"
    file.write_text("\ufeff" + MODEL, encoding="utf-8")
    register(mjcf=file)
    assert "odd" in fastsac.tasks()
