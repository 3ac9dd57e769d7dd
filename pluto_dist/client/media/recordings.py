"""`Audio` and `Video`."""

from __future__ import annotations

import io
import os
import wave
from typing import Any

from pluto_dist.client.media.base import (
    Media,
    absolute,
    array_of,
    leave_out,
    package,
    reported_by_log,
    split_name,
)
from pluto_dist.client.values import shown
from pluto_dist.errors import InvalidRecordError

_FORMATS = ("mp4", "webm", "ogg", "gif")
_LOUDEST = 2**15 - 1


class Audio(Media):
    """A sound.

    Args:
        data: path or bytes of an encoded sound; an array or tensor of shape (samples,) or (samples,
            channels), floats from -1 to 1 or 16-bit integers, which becomes a WAV file.
        rate: samples a second, for arrays.
        caption: a line for people; also what the file is called.
        sample_rate: another name of `rate`.

    Reported by `log()`, which leaves it out or, with `strict`, raises: it is no sound, or numpy
    is needed to encode it and is not installed.
    """

    log_type = "AUDIO"
    __slots__ = ()

    @reported_by_log
    def __init__(
        self,
        /,
        data: Any,
        rate: int | None = 48000,
        caption: str | None = None,
        *,
        sample_rate: int | None = None,
        **more: object,
    ) -> None:
        leave_out("Audio", more)
        if isinstance(data, str | os.PathLike):
            source = absolute(data, "Audio")
            stem, extension = split_name(source)
            super().__init__(source, stem=caption or stem, extension=extension, caption=caption)
            return
        content = bytes(data) if isinstance(data, bytes | bytearray) else _wav(data, sample_rate or rate)
        super().__init__(content, stem=caption or "", extension=".wav", caption=caption)


class Video(Media):
    """A film.

    Frames are not encoded here: that takes seconds of the training's time and a codec. Write the file with
    imageio or ffmpeg, and pass its path.

    Args:
        data: path or bytes of an encoded film.
        rate: of no use without frames; there for the official client's calls.
        caption: a line for people; also what the file is called.
        format: of bytes: mp4, webm, ogg or gif.
        fps: another name of `rate`.

    Reported by `log()`, which leaves it out or, with `strict`, raises: frames were passed, or it
    is no film.
    """

    log_type = "VIDEO"
    __slots__ = ()

    @reported_by_log
    def __init__(
        self,
        /,
        data: str | os.PathLike[str] | bytes | bytearray,
        rate: int | None = 30,  # noqa: ARG002 # the official client's signature
        caption: str | None = None,
        format: str | None = None,  # noqa: A002 # the official client's name
        *,
        fps: int | None = None,  # noqa: ARG002 # the official client's signature
        **more: object,
    ) -> None:
        leave_out("Video", more)
        if isinstance(data, bytes | bytearray):
            extension = f".{format}" if format in _FORMATS else ".mp4"
            super().__init__(bytes(data), stem=caption or "", extension=extension, caption=caption)
        elif isinstance(data, str | os.PathLike):
            source = absolute(data, "Video")
            stem, extension = split_name(source)
            super().__init__(source, stem=caption or stem, extension=extension, caption=caption)
        else:
            raise InvalidRecordError(
                f"Video was given {shown(data)}; frames are not encoded here: write a file, e.g. with "
                "imageio.mimsave('clip.mp4', frames, fps=30), and pass its path"
            )


def _wav(data: Any, rate: int | None) -> bytes:
    samples = array_of(data, "Audio")
    if samples.ndim not in (1, 2) or not samples.size or samples.dtype.kind not in "iuf":
        raise InvalidRecordError(
            f"Audio was given an array of {samples.dtype} and shape {tuple(samples.shape)}; it needs numbers "
            "of shape (samples,) or (samples, channels)"
        )
    if isinstance(rate, bool) or not isinstance(rate, int) or rate <= 0:
        raise InvalidRecordError(f"Audio was given the rate {shown(rate)}; pass samples a second, e.g. 48000")
    if samples.dtype.kind == "f":
        numpy = package("numpy", "Audio of an array")
        samples = numpy.rint(numpy.nan_to_num(samples).clip(-1, 1) * _LOUDEST)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.clip(-_LOUDEST - 1, _LOUDEST).astype("<i2").tobytes())
    return buffer.getvalue()
