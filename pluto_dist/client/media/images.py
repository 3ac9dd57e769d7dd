"""`Image`: files, arrays, figures and Pillow images as encoded pictures."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from pluto_dist.client.media.base import (
    Media,
    absolute,
    array_of,
    as_json,
    package,
    reported_by_log,
    split_name,
)
from pluto_dist.client.values import first_line, shown
from pluto_dist.errors import InvalidRecordError, PlutoDistError

_CHANNELS = (1, 3, 4)
_BEGINNINGS = {b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp", b"<svg": ".svg"}


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
