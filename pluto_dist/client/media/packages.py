"""Packages that only encoding needs. A trainer that logs numbers never loads them."""

from __future__ import annotations

import importlib
from typing import Any

from pluto_dist.client.plain import shown
from pluto_dist.errors import InvalidRecordError, MissingPackageError

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
