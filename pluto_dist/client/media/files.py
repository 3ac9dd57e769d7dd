"""Files as they are: `File`, `Artifact`, `Text`; and encoded at once: `Image`, `Audio`, `Video`.

The latter take files as well; arrays, figures and Pillow images are encoded when the value is made.
"""

from __future__ import annotations

import io
import os
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pluto_dist.client.media.base import (
    Media,
    absolute,
    array_of,
    as_json,
    leave_out,
    package,
    reported_by_log,
    split_name,
)
from pluto_dist.client.values import clean_text, first_line, shown
from pluto_dist.core.rules.shipment import Unit
from pluto_dist.errors import InvalidRecordError, PlutoDistError


class File(Media):
    """Any file of this machine.

    `log()` looks at it, so a missing file is told there. A large one is not copied: leave it as it is until
    it is delivered, see the how-to on files.

    Args:
        path: of a regular file.
        name: what it is called instead of its own name; its extension stays. Step and an id are added,
            because the server keeps only one object for each name.

    Reported by `log()`, which leaves it out or, with `strict`, raises: it is no path.
    """

    log_type = "FILE"
    __slots__ = ()

    @reported_by_log
    def __init__(self, /, path: str | os.PathLike[str], name: str | None = None, **more: object) -> None:
        leave_out("File", more)
        source = absolute(path, type(self).__name__)
        stem, extension = split_name(source)
        super().__init__(source, stem=(name or stem).removesuffix(extension), extension=extension)


class Artifact(Media):
    """A file or folder that a job produced, such as a checkpoint.

    Args:
        data: path of a regular file, of a folder, or a pattern such as `ckpt/*.pt`; or the content. A folder
            and the files of a pattern are one artifact, whose manifest has their names, sizes and checksums.
        caption: a line for people; also what the file is called.
        metadata: a dict that the server keeps with the file.
        path: another name of `data`.
        name: what the file is called instead of its caption.
        shards: every rank of the job logs it, under one name and step, and they become one artifact. "rank"
            if `data` is what this rank has written, "node" if it is the folder of all ranks of this node.

    Reported by `log()`, which leaves it out or, with `strict`, raises: data is neither, the metadata is no
    JSON, or `shards` is another word or goes with a content.
    """

    log_type = "ARTIFACT"
    __slots__ = ()

    @reported_by_log
    def __init__(
        self,
        /,
        data: str | os.PathLike[str] | bytes | bytearray | None = None,
        caption: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        name: str | None = None,
        shards: Unit | None = None,
        **more: object,
    ) -> None:
        leave_out("Artifact", more)
        data, called = path if data is None else data, name or caption
        notes = as_json(metadata, "metadata") if metadata else None
        if data is None:  # `add_file` follows
            stem = called or ""
            super().__init__("", stem=stem, extension="", caption=caption, annotations=notes)
        elif isinstance(data, bytes | bytearray):
            stem = called or ""
            super().__init__(bytes(data), stem=stem, extension="", caption=caption, annotations=notes)
        else:
            source = absolute(data, "Artifact")
            stem, extension = split_name(source)
            stem = called or stem
            super().__init__(source, stem=stem, extension=extension, caption=caption, annotations=notes)
        if shards not in (None, "rank", "node"):
            raise InvalidRecordError(f'shards is {shown(shards)}; pass "rank", "node" or None')
        if shards and not isinstance(self.source, str):
            raise InvalidRecordError("shards goes with a path; write the content into a file of this rank")
        self.shards = shards

    def add_file(self, /, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Names the file of an artifact that was made without one; a later call replaces it.

        Raises:
            InvalidRecordError: this is no path.
        """
        self.source = absolute(path, "Artifact.add_file()")
        stem, self.extension = split_name(self.source)
        self.stem = name or stem


class Text(Media):
    """A text, or a text file.

    Args:
        data: path of an existing file, else the text itself; anything else is written as `str(data)`.
        caption: a line for people; also what the file is called.
    """

    log_type = "TEXT"
    __slots__ = ()

    @reported_by_log
    def __init__(self, data: object, caption: str | None = None) -> None:
        if _is_file(data):
            source = absolute(data, "Text")  # type: ignore[arg-type] # _is_file says so
            stem, extension = split_name(source)
            super().__init__(source, stem=caption or stem, extension=extension, caption=caption)
        elif isinstance(data, os.PathLike):
            raise InvalidRecordError(f"Text was given the path {shown(os.fspath(data))}, which is no file")
        else:
            content = clean_text(data if isinstance(data, str) else str(data)).encode()
            super().__init__(content, stem=caption or "", extension=".txt", caption=caption)


def _is_file(data: object) -> bool:
    """Whether a text names a file, by the official client's rule."""
    try:
        return isinstance(data, str | os.PathLike) and Path(data).is_file()
    except (OSError, ValueError):
        return False


_CHANNELS = (1, 3, 4)
_BEGINNINGS = {b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp", b"<svg": ".svg"}
_FORMATS = ("mp4", "webm", "ogg", "gif")
_LOUDEST = 2**15 - 1


class Image(Media):
    """A picture.

    Args:
        data: path or bytes of an encoded image; a Pillow image; a matplotlib figure, axes or `pyplot`; an
            array or tensor of shape (height, width), (height, width, channels) or (channels, height, width)
            with 1, 3 or 4 channels. uint8 is taken as it is. Of other numbers, 0 to 1 is black to white; if
            there are larger ones, 0 to 255; if there are negative ones, the least to the largest.
        caption: a line for people; also what the file is called.
        boxes: boxes by layer, `{layer: {"box_data": […], "class_labels": {…}}}`; positions are in pixels
            unless a box says otherwise.
        masks: not recorded by this version.
        annotations: boxes and masks in the form in which the server keeps them, a dict or JSON text.

    Reported by `log()`, which leaves it out or, with `strict`, raises: it is no image, or Pillow
    is needed to encode it and is not installed.
    """

    log_type = "IMAGE"
    __slots__ = ()

    @reported_by_log
    def __init__(
        self,
        data: Any,
        caption: str | None = None,
        boxes: Mapping[str, Any] | None = None,
        masks: Mapping[str, Any] | None = None,
        annotations: str | Mapping[str, Any] | None = None,
    ) -> None:
        if masks:
            raise InvalidRecordError(
                "Image(masks=…) is not recorded by this version; log each mask as an Image of its own"
            )
        notes = _annotations(annotations, boxes)
        if isinstance(data, str | os.PathLike):
            source = absolute(data, "Image")
            stem, extension = split_name(source)
            super().__init__(
                source, stem=caption or stem, extension=extension, caption=caption, annotations=notes
            )
            return
        content = bytes(data) if isinstance(data, bytes | bytearray) else _encoded(data)
        super().__init__(
            content, stem=caption or "", extension=_extension(content), caption=caption, annotations=notes
        )


def _encoded(data: Any) -> bytes:
    try:
        return _drawn(data)
    except PlutoDistError:
        raise
    except Exception as error:  # code of others: a closed figure, a tensor on a device that has failed
        raise InvalidRecordError(
            f"Image({shown(data)}): making a PNG of it raised {type(error).__name__}: {first_line(error)}"
        ) from error


def _drawn(data: Any) -> bytes:
    buffer = io.BytesIO()
    figure: Any = data if hasattr(data, "savefig") else getattr(data, "figure", None)
    if figure is not None and hasattr(figure, "savefig"):
        figure.savefig(buffer, format="png")
    elif hasattr(data, "save") and hasattr(data, "getbbox"):  # Pillow's
        data.save(buffer, format="PNG")
    else:
        is_tensor = hasattr(type(data), "detach")  # their channels stand first
        pixels = _pixels(array_of(data, "Image"), channels_first=is_tensor)
        package("PIL.Image", "Image of an array").fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _pixels(array: Any, *, channels_first: bool) -> Any:
    """The array as uint8, (height, width) or (height, width, 3 or 4); the flag decides in doubtful cases."""
    may_be_first = array.ndim == 3 and array.shape[0] in _CHANNELS
    if may_be_first and (channels_first or array.shape[2] not in _CHANNELS):
        array = array.transpose(1, 2, 0)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in _CHANNELS) or not array.size:
        raise InvalidRecordError(
            f"Image was given an array of shape {tuple(array.shape)}; it needs (height, width), or 1, 3 or 4 "
            "channels first or last. Log a batch as a list of images"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype.kind not in "biuf":
        raise InvalidRecordError(f"Image was given an array of {array.dtype}; it needs numbers")
    return _levels(array)


def _levels(array: Any) -> Any:
    if str(array.dtype) == "uint8":
        return array
    if array.dtype.kind == "b":
        return array.astype("uint8") * 255
    numpy = package("numpy", "Image of an array")
    numbers = numpy.nan_to_num(array.astype("float64"))
    low, high = float(numbers.min()), float(numbers.max())
    if low < 0:
        numbers = (numbers - low) / ((high - low) or 1.0) * 255
    elif high <= 1:
        numbers = numbers * 255
    return numbers.clip(0, 255).astype("uint8")


def _extension(content: bytes) -> str:
    return next((ending for start, ending in _BEGINNINGS.items() if content.startswith(start)), ".png")


def _annotations(given: str | Mapping[str, Any] | None, boxes: Mapping[str, Any] | None) -> str | None:
    if not boxes:
        return given or None if isinstance(given, str) else as_json(given, "annotations") if given else None
    known = _decoded(given) if isinstance(given, str) else dict(given or {})
    known["boxes"] = {**known.get("boxes", {}), **{layer: _in_pixels(spec) for layer, spec in boxes.items()}}
    return as_json(known, "boxes")


def _decoded(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise InvalidRecordError(f"annotations is {shown(text)}, which is no JSON object: {error}") from error


def _in_pixels(spec: Any) -> Any:
    if not isinstance(spec, Mapping) or not isinstance(spec.get("box_data"), list):
        raise InvalidRecordError(f"boxes has the layer {shown(spec)}; pass {{'box_data': […]}}")
    boxes = [{"domain": "pixel", **box} if isinstance(box, Mapping) else box for box in spec["box_data"]]
    return {**spec, "box_data": boxes}


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
