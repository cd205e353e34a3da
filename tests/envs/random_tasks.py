"""Small tasks drawn at random: models of all that has a state, and what initialize writes of it."""

import jax.numpy as jnp
import numpy as np

import fastsac
from fastsac.envs.registry import find
from fastsac.envs.suite import load

EPISODE = 30  # control steps
ACTUATORS = {
    "motor": '<motor joint="x" ctrlrange="-2 2" gear="3" {delay}/>',
    "muscle": '<muscle tendon="cord" ctrlrange="0 1" lengthrange="0.1 2" force="5" {delay}/>',
    "filter": '<general joint="y" dyntype="filterexact" dynprm="0.05" gainprm="4" {delay}/>',
    "position": '<position joint="tilt" kp="5" kv="0.3" ctrlrange="-1 1" {delay}/>',
    "damper": '<velocity joint="x" kv="2" ctrlrange="-1 1" {delay}/>',
}
SENSORS = {
    "clock": '<clock name="clock"/>',
    "place": '<jointpos joint="x" {delay}/>',
    "touch": '<accelerometer site="s" {delay}/>',
    "gap": '<framepos objtype="site" objname="s" reftype="body" refname="goal" {delay}/>',
}
EQUALITIES = {
    "joint": '<joint joint1="x" joint2="y" polycoef="0 0.5 0 0 0"/>',
    "weld": '<weld body1="ball" body2="goal" solref="0.1 1"/>',
    "tendon": '<tendon tendon1="cord" solref="0.2 1"/>',
}
TERRAIN = '<geom type="hfield" hfield="hills" pos="0 0 -1"/>'
FLOOR = '<geom type="plane" size="3 3 0.1" pos="0 0 -1"/>'
MODEL = """<mujoco>
  <option timestep="0.005" wind="0.2 0 0" density="1.2" integrator="{integrator}"/>
  <size nuserdata="3"/>
  <asset><hfield name="hills" nrow="6" ncol="6" size="3 3 0.5 0.1"/></asset>
  <worldbody>
    {ground}
    <body name="goal" mocap="true" pos="0.5 0 0.2">
      <geom size="0.02" contype="0" conaffinity="0"/>
    </body>
    <body name="cart">
      <joint name="x" type="slide" axis="1 0 0" damping="0.5"/><geom size="0.1" mass="1"/>
      <site name="s" pos="0 0 0.1"/>
      <body name="arm" pos="0 0 0.2">
        <joint name="tilt" axis="0 1 0" damping="0.1" stiffness="1"/>
        <geom type="capsule" fromto="0 0 0 0 0 0.5" size="0.03" mass="0.3"/>
      </body>
    </body>
    <body name="other" pos="0 1 0">
      <joint name="y" type="slide" axis="1 0 0" damping="0.5"/><geom size="0.1" mass="0.5"/>
      <site name="t"/>
    </body>
    <body name="ball" pos="0.3 0.4 -0.5"><freejoint/><geom size="0.1" mass="0.2"/></body>
  </worldbody>
  <tendon><spatial name="cord" width="0.01"><site site="s"/><site site="t"/></spatial></tendon>
  <equality>{equalities}</equality>
  <actuator>{actuators}</actuator>
  <sensor>{sensors}</sensor>
</mujoco>"""

# What may be written of the data, and the size that its numbers have; of the model, and whether the
# writing is relative to what is there.
DATA = {
    "qpos": 0.1,
    "qvel": 0.5,
    "act": 0.1,
    "time": 1.0,
    "ctrl": 0.3,
    "qfrc_applied": 0.05,
    "xfrc_applied": 0.02,
    "mocap_pos": 0.3,
    "mocap_quat": 0.5,
    "userdata": 1.0,
    "qacc_warmstart": 1.0,
}
MODEL_FIELDS = {
    "opt.gravity": "absolute",
    "opt.wind": "absolute",
    "opt.density": "relative",
    "opt.viscosity": "absolute",
    "body_mass": "relative",
    "jnt_stiffness": "relative",
    "hfield_data": "absolute",
    "tendon_stiffness": "absolute",
    "eq_solref": "relative",
}


def observe(physics):
    fields = ["qpos", "qvel", "act", "sensordata", "time", "ctrl", "mocap_pos", "mocap_quat"]
    fields += ["userdata", "qfrc_applied", "xpos"]
    parts = {k: jnp.asarray(getattr(physics, k)) for k in fields}
    parts["active"] = jnp.where(physics.eq_active & True, 1.0, -1.0)
    parts["gravity"] = physics.model.opt.gravity * physics.model.opt.density
    return parts | {"mass": physics.model.body("cart").mass, "wind": physics.model.opt.wind}


def reward(physics):
    return -jnp.square(physics.body("cart").xpos - physics.mocap_pos[0]).sum()


def writer(data, model, sometimes):
    """Returns an initialize that writes these fields, those of sometimes in 3 episodes of 10."""

    def initialize(physics, random):
        for name in data:
            size = DATA[name]
            if name in sometimes and random.uniform() > 0.3:
                continue
            value = getattr(physics.data, name)
            if np.ndim(value):
                value += random.uniform(-size, size, np.shape(value))
            else:
                setattr(physics.data, name, random.uniform(0, size))
        physics.data.eq_active[:] = random.randint(2, size=physics.model.neq)
        for name in model:
            if name in sometimes and random.uniform() > 0.3:
                continue
            owner = physics.model.opt if name.startswith("opt.") else physics.model
            last = name.removeprefix("opt.")
            value = getattr(owner, last)
            draw = random.uniform(0.1, 1, np.shape(value))
            new = value * (0.5 + draw) if MODEL_FIELDS[name] == "relative" else draw
            if np.ndim(value):
                value[...] = new
            else:
                setattr(owner, last, float(new))

    return initialize


def some(random, names, least=0):
    names = list(names)
    return [n for n in names if random.uniform() < 0.6] or names[:least]


def model_of(random, delays=True):
    """Returns a model's XML."""

    def delay():
        if not delays or random.uniform() < 0.4:
            return ""
        order = random.choice(["zoh", "linear", "cubic"])
        return f'delay="{0.005 * random.randint(1, 6)}" nsample="8" interp="{order}"'

    return MODEL.format(
        integrator=random.choice(["Euler", "RK4", "implicitfast"]),
        ground=TERRAIN if random.uniform() < 0.4 else FLOOR,
        equalities="".join(EQUALITIES[k] for k in some(random, EQUALITIES)),
        actuators="".join(ACTUATORS[k].format(delay=delay()) for k in some(random, ACTUATORS, 1)),
        sensors="".join(SENSORS[k].format(delay=delay()) for k in some(random, SENSORS)),
    )


def register(name, seed):
    """Adds the task of that seed."""
    random = np.random.RandomState(seed)
    model = some(random, MODEL_FIELDS)
    fastsac.register(
        name,
        model_of(random),
        observe,
        reward,
        initialize=writer(some(random, DATA), model, some(random, [*DATA, *MODEL_FIELDS])),
        randomised=model,
        control_timestep=0.01,
        time_limit=0.01 * EPISODE,
    )


def episode(name, seed, index):
    """Returns dm_control's environment at the first step of row number index, and that step."""
    env = load(find(name), 0)
    row = np.random.SeedSequence([seed, index]).spawn(2)[0].generate_state(8)
    env.task.random.seed(row)
    return env, env.reset()
