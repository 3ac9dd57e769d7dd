"""Files as they are: `File`, `Artifact`, `Text`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pluto_dist.client.media.base import Media, absolute, as_json, leave_out, reported_by_log, split_name
from pluto_dist.client.values import clean_text, shown
from pluto_dist.errors import InvalidRecordError


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

    Reported by `log()`, which leaves it out or, with `strict`, raises: data is neither, or the
    metadata is no JSON.
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
