"""Base classes of media: a file and a data value, as `log()` takes them.

The module is light, because every trainer imports it: packages that only encoding needs are imported by
`package`, when a value is made.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, ClassVar, Concatenate, ParamSpec, Self, TypeVar

import msgspec

from pluto_dist.client.notices import WarnOnce
from pluto_dist.client.values import clean_text, first_line, shown
from pluto_dist.core.rules.shipment import Unit
from pluto_dist.core.values.backend import LogType
from pluto_dist.errors import InvalidRecordError, MissingPackageError, UsageError

LONGEST_STEM = 100  # bytes; with step, id and extension a name stays below what filesystems take
LONGEST_EXTENSION = 16

_NOT_IN_NAMES = re.compile(r"[^\w.-]+")
_TWO_PARTS = ".tar"


class Loggable:
    """A value that a user makes for `log()`.

    Attributes:
        problem: why it cannot be logged, "" if it can.
    """

    __slots__ = ("problem",)
    problem: str

    def __new__(cls, *_: object, **__: object) -> Self:
        """Without a problem, until its making has found one."""
        made = super().__new__(cls)
        made.problem = ""
        return made


_Made = TypeVar("_Made", bound=Loggable)
_Arguments = ParamSpec("_Arguments")


def reported_by_log(
    init: Callable[Concatenate[_Made, _Arguments], None],
) -> Callable[Concatenate[_Made, _Arguments], None]:
    """Decorator of constructors: a value that cannot be encoded does not end the training that made it.

    Losses become NaN, and then histograms of gradients have no bins. `log()` leaves such a value out, counts
    it and says why, or raises with `strict`. A call with wrong argument names raises here.
    """

    @functools.wraps(init)
    def made(self: _Made, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        try:
            init(self, *args, **kwargs)
        except UsageError as error:
            self.problem = error.message
        except Exception as error:  # code of others: numpy, pandas, a tensor on a device that has failed
            if error.__traceback__ is None or error.__traceback__.tb_next is None:
                raise  # not even called
            self.problem = f"making it raised {type(error).__name__}: {first_line(error)}"

    return made


_warn_once = WarnOnce()


def leave_out(kind: str, more: Mapping[str, object]) -> None:
    """Warns of argument names that a class does not have; the official client's classes ignore them."""
    for name in more:
        _warn_once(f"{kind}:{name}", f"{kind}({name}=…) has no meaning here and was left out")


class Media(Loggable):
    """A file to be logged.

    Attributes:
        log_type: type under which its name is registered.
        source: absolute path, or the content.
        stem, extension: parts of its file name; the extension begins with a dot, or is "".
        caption: a line for people.
        annotations: JSON text for the server's readers.
        id: 32 hexadecimal digits by which a repeat is known, "" for new ones.
        shards: all ranks, or nodes, of the job give it together; None for this process alone.
    """

    log_type: ClassVar[LogType]
    __slots__ = ("annotations", "caption", "extension", "id", "shards", "source", "stem")

    def __init__(
        self,
        source: str | bytes,
        *,
        stem: str,
        extension: str,
        caption: str | None = None,
        annotations: str | None = None,
    ) -> None:
        self.source = source
        self.stem = stem
        self.extension = extension
        self.caption = None if caption is None else clean_text(str(caption))
        self.annotations = annotations
        self.id = ""
        self.shards: Unit | None = None

    def file_name(self, step: int, blob: str) -> str:
        """A name that no other file of this Run has, since the server keeps one object for each name."""
        stem = _NOT_IN_NAMES.sub("-", clean_text(self.stem)).strip(".-") or self.log_type.lower()
        stem = stem.encode()[:LONGEST_STEM].decode(errors="ignore")
        return f"{stem}-{step}-{blob[:12]}{self.extension}"

    @property
    def file_type(self) -> str:
        """The extension without its dot, as the server has it."""
        return self.extension.rpartition(".")[2] or "bin"

    def __repr__(self) -> str:
        if self.problem:
            return f"<pluto_dist.{type(self).__name__} that cannot be logged: {self.problem}>"
        what = self.source if isinstance(self.source, str) else f"{len(self.source):,} bytes"
        return f"<pluto_dist.{type(self).__name__} {what}>"


class DataValue(Loggable):
    """A value that becomes one data row.

    Attributes:
        log_type: type under which its name is registered.
        data_type: type by which the server's readers know it.
        payload: JSON text.
    """

    log_type: ClassVar[LogType]
    data_type: ClassVar[str]
    __slots__ = ("payload",)

    def __init__(self, payload: str) -> None:
        self.payload = payload

    def to_dict(self) -> dict[str, Any]:
        """The value as the server's readers get it, with the class's name and the version of the form.

        Raises:
            InvalidRecordError: the value could not be made; `log()` would have told it.
        """
        if self.problem:
            raise InvalidRecordError(self.problem)
        return {**msgspec.json.decode(self.payload, type=dict[str, Any]), "type": type(self).__name__, "v": 1}


def absolute(path: str | os.PathLike[str], what: str) -> str:
    """The path as it is now: the process may change its folder before the file is logged.

    Raises:
        InvalidRecordError: it is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise InvalidRecordError(f"{what} was given {shown(path)}; pass the path of a file")
    found = os.fspath(path)
    if not isinstance(found, str) or "\0" in found or not found:
        raise InvalidRecordError(f"{what} was given {shown(found)}; pass the path of a file as text")
    return os.path.abspath(os.path.expanduser(found))  # noqa: PTH100, PTH111 # text; Path() resolves no `..`


def split_name(path: str) -> tuple[str, str]:
    """Stem and extension of a file's name; `.tar.gz` and its like stay together."""
    name = PurePath(path).name
    stem, dot, ending = name.rpartition(".")
    if not stem or not ending.isalnum() or len(ending) > LONGEST_EXTENSION:
        return name, ""
    if stem.endswith(_TWO_PARTS) and stem != _TWO_PARTS:
        return stem.removesuffix(_TWO_PARTS), f"{_TWO_PARTS}{dot}{ending}"
    return stem, dot + ending


def as_json(value: object, what: str) -> str:
    """The value as JSON text.

    Raises:
        InvalidRecordError: it holds something that JSON has no form for.
    """
    try:
        return msgspec.json.encode(value, enc_hook=_plain).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRecordError(f"{what} cannot be written as JSON: {error}; pass plain values") from error


def _plain(value: object) -> object:
    """numpy's and torch's numbers and arrays."""
    if hasattr(type(value), "tolist"):
        return value.tolist()  # type: ignore[attr-defined] # just looked
    raise TypeError(f"a value of type {type(value).__name__}")


_EXTRA = "pip install 'pluto-dist[media]'"


def package(module: str, what_for: str) -> Any:
    """An installed module.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = {"PIL.Image": "Pillow"}.get(module, module)
        raise MissingPackageError(
            f"{what_for} needs {name}, which is not installed: {_EXTRA}; or pass the path or the bytes of an "
            "encoded file",
            package=name,
        ) from error


def array_of(data: Any, what: str) -> Any:
    """The numbers as a numpy array; a tensor comes from its device.

    Raises:
        InvalidRecordError: these are no numbers.
        MissingPackageError: numpy is not installed.
    """
    kind = type(data)
    if hasattr(kind, "detach") and hasattr(kind, "cpu"):
        data = data.detach().cpu()
        if str(data.dtype) == "torch.bfloat16":  # numpy has none
            data = data.float()
    numpy = package("numpy", f"{what} of an array")
    if not (hasattr(kind, "__array__") or isinstance(data, list | tuple)):
        raise InvalidRecordError(f"{what} was given {shown(data)}, which is no array and no path or bytes")
    return numpy.asarray(data)
