"""Quadruped that walks, escapes a bowl or fetches a ball. Port of dm_control.suite.quadruped."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from fastsac.envs.physics import Physics
from fastsac.envs.registry import Task, add
from fastsac.envs.rewards import tolerance

RUN_SPEED = 5.0  # m/s
WALK_SPEED = 0.5  # m/s
ESCAPE_TILT = 20.0  # degrees that the torso may tilt without loss of reward

_SENSOR = mujoco.mjtSensor
_NOTHING_IN_RANGE = -1.0  # reading of a rangefinder


def torso_upright(physics: Physics) -> jax.Array:
    return physics.body("torso").xmat[2, 2]


def torso_velocity(physics: Physics) -> jax.Array:
    """In the torso's frame, m/s."""
    return physics.sensor("velocimeter").data


def egocentric_state(physics: Physics) -> jax.Array:
    """Hinge angles, hinge velocities and activations."""
    model = physics.model
    hinges = np.flatnonzero(model.jnt_type == int(mujoco.mjtJoint.mjJNT_HINGE))
    angles = physics.qpos[model.jnt_qposadr[hinges]]
    return jnp.concatenate([angles, physics.qvel[model.jnt_dofadr[hinges]], physics.act])


def readings(physics: Physics, *kinds: mujoco.mjtSensor) -> jax.Array:
    """The data of all sensors of these kinds, in the model's order."""
    model = physics.model
    ids = np.flatnonzero(np.isin(model.sensor_type, [int(kind) for kind in kinds]))
    return physics.sensors([model.sensor(i).name for i in ids]).data


def rangefinder(physics: Physics) -> jax.Array:
    """Squashed distances, 1 where nothing is in range."""
    distances = readings(physics, _SENSOR.mjSENS_RANGEFINDER)
    return jnp.where(distances == _NOTHING_IN_RANGE, 1.0, jnp.tanh(distances))


def in_torso_frame(physics: Physics, position: jax.Array) -> jax.Array:
    torso = physics.body("torso")
    return (position - torso.xpos) @ torso.xmat


def ball_state(physics: Physics) -> jax.Array:
    """Ball position, velocity and spin relative to the torso's frame."""
    ball, root = physics.joint("ball_root").qvel, physics.joint("root").qvel
    velocities = jnp.stack([ball[:3] - root[:3], ball[3:]]) @ physics.body("torso").xmat
    position = in_torso_frame(physics, physics.body("ball").xpos)
    return jnp.concatenate([position, velocities.ravel()])


def observe(physics: Physics) -> dict[str, jax.Array]:
    forces = readings(physics, _SENSOR.mjSENS_FORCE, _SENSOR.mjSENS_TORQUE)
    return {
        "egocentric_state": egocentric_state(physics),
        "torso_velocity": torso_velocity(physics),
        "torso_upright": torso_upright(physics),
        "imu": readings(physics, _SENSOR.mjSENS_GYRO, _SENSOR.mjSENS_ACCELEROMETER),
        "force_torque": jnp.arcsinh(forces),
    }


def observe_escape(physics: Physics) -> dict[str, jax.Array]:
    origin = in_torso_frame(physics, jnp.zeros(3))
    return observe(physics) | {"origin": origin, "rangefinder": rangefinder(physics)}


def observe_fetch(physics: Physics) -> dict[str, jax.Array]:
    target = in_torso_frame(physics, physics.site("target").xpos)
    return observe(physics) | {"ball_state": ball_state(physics), "target_position": target}


def upright_reward(physics: Physics, tilt: float = 0.0) -> jax.Array:
    """1 while the torso tilts by no more than so many degrees, 0 upside down."""
    least = math.cos(math.radians(tilt))
    return tolerance(
        torso_upright(physics),
        bounds=(least, float("inf")),
        sigmoid="linear",
        margin=1 + least,
        value_at_margin=0,
    )


def move_reward(physics: Physics, speed: float) -> jax.Array:
    move = tolerance(
        torso_velocity(physics)[0],
        bounds=(speed, float("inf")),
        margin=speed,
        value_at_margin=0.5,
        sigmoid="linear",
    )
    return upright_reward(physics) * move


def escape_reward(physics: Physics) -> jax.Array:
    terrain_size = physics.model.hfield_size[0, 0]
    escape = tolerance(
        jnp.linalg.norm(physics.site("workspace").xpos),
        bounds=(terrain_size, float("inf")),
        margin=terrain_size,
        value_at_margin=0,
        sigmoid="linear",
    )
    return upright_reward(physics, ESCAPE_TILT) * escape


def fetch_reward(physics: Physics) -> jax.Array:
    """Upright, the workspace at the ball, and then the ball at the target."""
    model, ball = physics.model, physics.body("ball").xpos
    arena = model.geom_size[model.geom("floor").id, 0] * math.sqrt(2)

    def within(site: str, reach: jax.Array) -> jax.Array:
        return tolerance(
            jnp.linalg.norm((physics.site(site).xpos - ball)[:2]),
            bounds=(0, reach),
            sigmoid="linear",
            margin=arena,
            value_at_margin=0,
        )

    workspace = model.site_size[model.site("workspace").id, 0]
    reach = within("workspace", workspace + model.geom_size[model.geom("ball").id, 0])
    fetch = within("target", model.site_size[model.site("target").id, 0])
    return upright_reward(physics) * reach * (0.5 + 0.5 * fetch)


_quadruped = partial(Task, domain="quadruped")
_move = partial(_quadruped, observe=observe)
add(_move(name="walk", reward=partial(move_reward, speed=WALK_SPEED)))
add(_move(name="run", reward=partial(move_reward, speed=RUN_SPEED)))
add(
    _quadruped(
        name="escape",
        observe=observe_escape,
        reward=escape_reward,
        randomised=("hfield_data",),
        mjx_refusal="it collides no cylinders with a height field and has no rangefinders there",
    )
)
add(_quadruped(name="fetch", observe=observe_fetch, reward=fetch_reward))
