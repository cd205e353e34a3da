"""Films: the right pictures at the right time, the returns of ``fastsac eval``, or one sentence."""

import ctypes.util
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastsac
import fastsac.envs  # noqa: F401  (sets MUJOCO_GL before dm_control is imported)
from fastsac.cli import main
from fastsac.errors import ConfigError, RunError
from fastsac.runs import checkpoint_file
from fastsac.show.video import Shot, camera_number, record, steps_per_frame
from fastsac.show.video_writers import Gif, Mp4
from fastsac.training.config import EVAL_SEED
from fastsac.training.evaluation import evaluate_run
from tests.fastsac.run_samples import train_tiny

# Rendering takes 50 to 300 ms a frame on two busy cores, of any size: shadows cost most.
SMALL = dict(size=(64, 48), fps=5.0, seconds=1.5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a tiny trained run of cartpole_balance: a control step takes 10 ms."""
    return train_tiny(tmp_path_factory.mktemp("video") / "run")


@pytest.fixture(scope="module")
def pictures(run):
    """What two episodes of SMALL must show, from dm_control alone: 16 of (48, 64, 3) uint8."""
    from dm_control import suite

    env = suite.load("cartpole", "balance", task_kwargs={"random": EVAL_SEED})
    try:
        env.physics.render()
    except Exception as error:
        pytest.skip(f"no OpenGL: {error}")
    policy, shown = fastsac.load_policy(run), []
    for _ in range(2):
        timestep = env.reset()
        for step in range(1000):
            if step in range(0, 150, 20):
                shown.append(env.physics.render(48, 64, 0))
            timestep = env.step(policy(np.concatenate([*timestep.observation.values()])))
    return shown


def gif_frames(file):
    """Pictures (H, W, 3) of a GIF and how long each is shown, in ms."""
    from PIL import Image

    with Image.open(file) as image:
        frames, durations = [], []
        for i in range(image.n_frames):
            image.seek(i)
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
        return frames, durations


def difference(a, b):
    """Mean absolute difference of two pictures, of 255."""
    return np.abs(a.astype(float) - b).mean()


def test_a_gif_of_two_episodes(run, pictures, tmp_path):
    output = tmp_path / "walk.GIF"
    film = record(run, output, Shot(episodes=2, **SMALL))
    # 25 fps would be 4 control steps of 10 ms; 5 fps are 20, so 1.5 s are begun 8 times.
    assert film.frames == 16 and film.frame_seconds == pytest.approx(0.2)
    frames, durations = gif_frames(output)
    assert sum(durations) == 16 * 200
    assert all(f.shape == (48, 64, 3) for f in frames) and len(frames) == 16
    assert all(difference(a, b) > 0.05 for a, b in zip(frames, frames[1:], strict=False))
    # 63 colours, measured: 2.1.
    assert max(difference(f, p) for f, p in zip(frames, pictures, strict=True)) < 4
    assert output.stat().st_size < 50_000 and list(tmp_path.iterdir()) == [output]
    # Whole episodes, though they are not filmed to their end.
    assert film.returns == evaluate_run(str(run), 2, EVAL_SEED, "dm_control").returns
    assert film.diverged == 0


def test_every_frame_is_of_its_moment(run, pictures, tmp_path, monkeypatch):
    filmed, add = [], Gif.add
    monkeypatch.setattr(Gif, "add", lambda gif, frame: (filmed.append(frame), add(gif, frame)))
    record(run, tmp_path / "walk.gif", Shot(episodes=2, **SMALL))
    np.testing.assert_array_equal(filmed, pictures)
    assert len({p.tobytes() for p in pictures}) == 16


def test_an_mp4(run, pictures, tmp_path):
    import av

    output = tmp_path / "walk.mp4"
    film = record(checkpoint_file.files_of(run)[0], output, Shot(**SMALL))
    with av.open(str(output)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 5 and (stream.width, stream.height) == (64, 48)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == film.frames == 8
    # Colours are halved in resolution, measured: 2.6.
    assert max(difference(f, p) for f, p in zip(frames, pictures[:8], strict=True)) < 5


def test_the_command_prints_what_eval_prints(run, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["video", str(run), "-o", "a.gif", "--size", "64x48", "--fps", "5", "--seconds", "0.4"]
    assert main([*argv, "--camera", "lookatcart", "--seed", "3"]) == 0
    filmed = capsys.readouterr().out.splitlines()
    assert main(["eval", str(run), "--episodes", "1", "--seed", "3"]) == 0
    assert filmed[0] == capsys.readouterr().out.splitlines()[0] and "episode 0: " in filmed[0]
    assert filmed[1].startswith("a.gif: 0.4 s, 5 fps, ") and len(filmed) == 2
    fixed = record(run, Path("b.gif"), Shot(size=(64, 48), fps=5.0, seconds=0.4, seed=3))
    assert fixed.frames == 2
    assert difference(gif_frames("a.gif")[0][0], gif_frames("b.gif")[0][0]) > 5


def test_pictures_larger_than_the_models_own_buffer(run, pictures, tmp_path):
    record(run, tmp_path / "a.gif", Shot(size=(768, 576), fps=1.0, seconds=0.5))
    (frame,), _ = gif_frames(tmp_path / "a.gif")
    assert frame.shape == (576, 768, 3)
    blocks = frame.reshape(48, 12, 64, 12, 3).mean((1, 3))
    assert difference(blocks, pictures[0]) < 5


def test_by_default_the_whole_episode_is_filmed(run, pictures, tmp_path):
    film = record(run, tmp_path / "a.gif", Shot(size=(64, 48), fps=1.0))
    assert film.frames == 10  # of 10 s
    assert sum(gif_frames(tmp_path / "a.gif")[1]) == 10_000
    assert film.returns == evaluate_run(str(run), 1, EVAL_SEED, "dm_control").returns


@pytest.mark.parametrize(
    ("timestep", "fps", "shortest", "steps"),
    [
        (0.01, 25, 0, 4),
        (0.02, 25, 0, 2),
        (0.025, 25, 0, 2),  # 20 fps is nearer than 40
        (0.015, 25, 0, 3),
        (0.04, 25, 0, 1),
        (0.03, 60, 0, 1),  # one frame a control step at most
        (0.01, 1, 0, 100),
        (0.01, 100, 0, 1),
        (0.01, 100, 0.02, 2),
        (0.015, 100, 0.02, 2),
        (0.025, 60, 0.02, 1),
    ],
)
def test_steps_per_frame(timestep, fps, shortest, steps):
    assert steps_per_frame(timestep, fps, shortest) == steps


def moving_square(count):
    """Pictures (128, 128, 3) of a shaded orange square that moves on a floor of 5,000 blues."""
    y, x = np.mgrid[:128, :128]
    for i in range(count):
        picture = np.stack([20 + x // 8, 40 + y // 4, 60 + (x + y) // 3], -1).astype(np.uint8)
        square = picture[60:76, 5 * i : 5 * i + 16]
        square[..., 0], square[..., 1], square[..., 2] = 230, 60 + 8 * (y[:16, :16]), 40
        yield picture


def test_gif_times_add_up_and_rare_colours_stay():
    writer = Gif((128, 128), 0.025)  # which a GIF cannot say: it counts in 10 ms
    buffer = np.empty((128, 128, 3), np.uint8)
    for picture in moving_square(20):
        buffer[:] = picture  # as a renderer may reuse its own
        writer.add(buffer)
    frames, durations = gif_frames(io.BytesIO(writer.encode()))
    assert sum(durations) == 500 and set(durations) == {20, 30}
    worst = [
        np.abs(f.astype(int) - p).max() for f, p in zip(frames, moving_square(20), strict=True)
    ]
    assert max(worst) < 40  # measured: 24, and 72 with Pillow's default palette


def test_a_gif_leaves_out_what_the_eye_does_not_see():
    still = np.full((32, 32, 3), 100, np.uint8)
    writer = Gif((32, 32), 0.1)
    for brightness in (0, 4, 8, 40, 45):  # the tolerance is 8
        writer.add(still + np.uint8(brightness))
    frames, durations = gif_frames(io.BytesIO(writer.encode()))
    assert durations == [300, 200]
    first, second = (int(f[0, 0, 0]) for f in frames)
    assert abs(first - 100) < 8 and abs(second - 140) < 8


def test_mp4_times_are_exact():
    import av

    writer = Mp4((128, 128), 0.045)
    for picture in moving_square(20):
        writer.add(picture)
    with av.open(io.BytesIO(writer.encode())) as container:
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, 0.045 * np.arange(20), atol=1e-3)


@pytest.mark.parametrize(
    ("camera", "number"),
    [(None, 0), ("0", 0), ("1", 1), ("-1", -1), ("side", 0), ("2", None), ("-2", None), ("", None)],
)
def test_cameras(camera, number):
    from dm_control import mujoco

    xml = '<mujoco><worldbody><camera name="side"/><camera/></worldbody></mujoco>'
    model = mujoco.Physics.from_xml_string(xml).model
    if number is None:
        with pytest.raises(ConfigError, match=r"the model has -1 \(free\), 0 \(side\), 1$"):
            camera_number(model, camera)
    else:
        assert camera_number(model, camera) == number


def test_a_model_without_cameras_is_seen_by_the_free_one():
    from dm_control import mujoco

    model = mujoco.Physics.from_xml_string("<mujoco/>").model
    assert camera_number(model, None) == -1


BAD = {
    "suffix": ("-o a.avi", "-o must end in .gif or .mp4, got a.avi"),
    "no output": ("", "the following arguments are required: -o"),
    "no directory": ("-o there/a.gif", "there is no directory there"),
    "unknown camera": ("-o a.gif --camera top", "no --camera top; the model has -1 (free), 0 ("),
    "camera out of range": ("-o a.gif --camera 2", "there is no --camera 2; the model has"),
    "not a size": ("-o a.gif --size 320", "--size: must be like 320x240, got '320'"),
    "size of nothing": ("-o a.gif --size 0x240", "--size takes 16 to 4096 pixels a side, got 0x2"),
    "large size": ("-o a.gif --size 320x9999", "--size takes 16 to 4096 pixels a side"),
    "odd size": ("-o a.mp4 --size 321x240", "--size of an .mp4 takes even sides, got 321x240"),
    "no frames": ("-o a.gif --fps 0", "--fps must be at least 1, got 0"),
    "not a number": ("-o a.gif --fps nan", "--fps must be at least 1, got nan"),
    "no time": ("-o a.gif --seconds 0", "--seconds must be above 0, got 0"),
    "no episodes": ("-o a.gif --episodes 0", "--episodes must be at least 1, got 0"),
    "seed": ("-o a.gif --seed -1", "--seed must be in [0, 2**32), got -1"),
}


@pytest.mark.parametrize(("flags", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_gets_one_sentence_and_no_file(flags, words, run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["video", str(run), *flags.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastsac: ") and words in line
    assert not list(tmp_path.iterdir())


def test_no_run(capsys, tmp_path):
    assert main(["video", "nowhere", "-o", str(tmp_path / "a.gif")]) == 2
    assert capsys.readouterr().err == "fastsac: there is no checkpoint nowhere\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("suffix", "module"), [(".gif", "PIL"), (".mp4", "av")])
def test_a_missing_library_is_named(suffix, module, run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RunError, match=r"a \.... needs Py?\w+: pip install 'fastsac\[video\]'"):
        record(run, tmp_path / f"a{suffix}", Shot())


@pytest.mark.parametrize(
    "environment",
    [
        {"MUJOCO_GL": "disabled"},  # which we set where there is no EGL
        pytest.param(  # EGL with no driver
            {"MUJOCO_GL": "egl", "__EGL_VENDOR_LIBRARY_FILENAMES": "/dev/null"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["no EGL", "no driver"],
)
def test_no_opengl_gets_a_sentence(environment, run, tmp_path):
    argv = ["-m", "fastsac", "video", str(run), "-o", str(tmp_path / "a.gif")]
    done = subprocess.run(
        [sys.executable, *argv],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "OpenGL fails here" in line and "libegl1 libgl1-mesa-dri" in line
    assert "libosmesa6" in line and not list(tmp_path.iterdir())


PUT_ASIDE = {
    "osmesa": ({"MUJOCO_GL": "osmesa"}, "MUJOCO_GL=osmesa needs libOSMesa, which is not here"),
    "misspelt": ({"MUJOCO_GL": "elg"}, "MUJOCO_GL=elg is none of egl, osmesa, glfw and disabled"),
    "two": (
        {"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "osmesa"},
        "MUJOCO_GL=egl contradicts PYOPENGL_PLATFORM=osmesa",
    ),
}


@pytest.mark.parametrize(
    "case", ["misspelt", *(pytest.param(x, marks=pytest.mark.slow) for x in ("osmesa", "two"))]
)
def test_an_opengl_that_cannot_be_is_named_by_films_alone(case, run, tmp_path):
    environment, why = PUT_ASIDE[case]
    if environment["MUJOCO_GL"] == "osmesa" and ctypes.util.find_library("OSMesa"):
        pytest.skip("this machine has OSMesa")
    code = (
        "import sys; from fastsac.cli import main; arguments = sys.argv[1:];"
        "print(main(arguments[:4]), main(arguments[4:]))"
    )
    argv = ["eval", str(run), "--episodes", "1", "video", str(run), "-o", str(tmp_path / "a.gif")]
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert "return in dm_control: " in done.stdout and done.stdout.endswith("0 2\n"), done.stderr
    (line,) = done.stderr.splitlines()
    assert f"OpenGL fails here ({why})" in line and not list(tmp_path.iterdir())


def test_what_pyopengl_was_told_is_followed():
    others = ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL")
    environment = {k: v for k, v in os.environ.items() if k not in others}
    done = subprocess.run(
        [sys.executable, "-c", "import os, fastsac.envs; print(os.environ['MUJOCO_GL'])"],
        env=environment | {"PYOPENGL_PLATFORM": "osmesa"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    is_here = ctypes.util.find_library("OSMesa")
    assert done.stdout.strip() == ("osmesa" if is_here else "disabled") and not done.stderr


def test_glfw_without_a_display_leaves_no_traceback(run, tmp_path):
    argv = ["-m", "fastsac", "video", str(run), "-o", str(tmp_path / "a.gif")]
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(
        [sys.executable, *argv],
        env=environment | {"MUJOCO_GL": "glfw"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("fastsac: OpenGL fails here (")


def test_a_full_disk_keeps_the_old_film(run, pictures, tmp_path, monkeypatch):
    output = tmp_path / "a.gif"
    output.write_bytes(b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="could not write .*a.gif: No space left on device"):
        record(run, output, Shot(size=(64, 48), fps=1.0, seconds=0.5))
    assert output.read_bytes() == b"old" and list(tmp_path.iterdir()) == [output]
