"""What turns pictures into a .gif or an .mp4."""

import importlib
import io
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fastsac.errors import ConfigError, RunError


class Gif:
    """An endless GIF with one palette, whose frames hold what differs from the one before."""

    library = "PIL", "Pillow"
    min_frame_seconds = 0.02  # browsers play shorter frames at 0.1 s
    side_step = 1
    # Measured on 10 s of a flailing humanoid, 200 frames of 320x240 with a moving camera: 255
    # colours and every difference take 2.7 MB, these 1.0 MB.
    _COLORS = 63  # and one for transparency
    _TOLERANCE = 8  # of 255: a pixel that is nearer to what is shown already stays

    def __init__(self, size: tuple[int, int], frame_seconds: float):
        self._size, self._frame_seconds = size, frame_seconds
        self._shown: np.ndarray | None = None
        self._frames: list[bytes] = []  # compressed, since a minute of raw frames is 350 MB

    def add(self, frame: np.ndarray) -> None:
        """Adds a frame (H, W, 3) uint8, which may be overwritten afterwards."""
        if self._shown is None:
            self._shown = frame.copy()
        far = np.abs(frame.astype(np.int16) - self._shown).max(axis=-1) > self._TOLERANCE
        self._shown[far] = frame[far]
        self._frames.append(zlib.compress(self._shown.tobytes(), level=1))

    def encode(self) -> bytes:
        """Returns the file; there is at least one frame."""
        from PIL import Image
        from PIL.Image import Dither, Quantize

        def picture(frame: bytes) -> Image.Image:
            return Image.frombytes("RGB", self._size, zlib.decompress(frame))

        some = [picture(f) for f in self._frames[:: len(self._frames) // 32 + 1]]
        pixels = np.stack([np.asarray(image)[::4, ::4] for image in some]).reshape(1, -1, 3)
        # Median cut, Pillow's default, gives the floor nearly all colours: what moves on it is off
        # by up to 78 of 255, here by 32.
        palette = Image.fromarray(pixels).quantize(self._COLORS, method=Quantize.FASTOCTREE)
        first, *rest = [
            picture(f).quantize(palette=palette, dither=Dither.NONE) for f in self._frames
        ]
        # A GIF counts hundredths of a second: rounding the ends keeps the whole in time.
        ends = np.rint(100 * self._frame_seconds * np.arange(len(self._frames) + 1)).astype(int)
        milliseconds = (10 * np.diff(ends)).tolist()
        file = io.BytesIO()
        first.save(
            file,
            "GIF",
            save_all=True,
            append_images=rest,
            duration=milliseconds,
            loop=0,
            optimize=True,
        )
        return file.getvalue()


class Mp4:
    """H.264 that every browser plays."""

    library = "av", "PyAV"
    min_frame_seconds = 0.0
    side_step = 2  # H.264 stores colours for 2x2 pixels

    def __init__(self, size: tuple[int, int], frame_seconds: float):
        import av

        self._file = io.BytesIO()
        self._container = av.open(self._file, "w", format="mp4")
        rate = Fraction(1 / frame_seconds).limit_denominator(1000)
        self._stream = self._container.add_stream("libx264", rate=rate, options={"crf": "23"})
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p"

    def add(self, frame: np.ndarray) -> None:
        """Adds a frame (H, W, 3) uint8, which may be overwritten afterwards."""
        import av

        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))

    def encode(self) -> bytes:
        """Returns the file; there is at least one frame."""
        self._container.mux(self._stream.encode())
        self._container.close()
        return self._file.getvalue()


def writer_for(output: Path, size: tuple[int, int]) -> type[Gif] | type[Mp4]:
    """Returns the writer of such a file.

    Args:
        output: by whose suffix it is chosen.
        size: width and height in pixels.

    Raises:
        ConfigError: there is none for that suffix, or the size is not for it.
        RunError: its library is missing.
    """
    writers: dict[str, Any] = {".gif": Gif, ".mp4": Mp4}
    suffix = output.suffix.lower()
    if suffix not in writers:
        raise ConfigError(f"-o must end in .gif or .mp4, got {output}")
    writer = writers[suffix]
    if any(side % writer.side_step for side in size):
        raise ConfigError(f"--size of an .mp4 takes even sides, got {size[0]}x{size[1]}")
    module, name = writer.library
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise RunError(f"a {suffix} needs {name}: pip install 'fastsac[video]'") from error
    return writer
