"""The few file operations of the spool; `real_files` has the operating system's.

Writer, reader and retention use nothing else of the operating system, so that a simulation can run the same
code over files in memory. Errors are plain `OSError`.

A writer keeps one descriptor number for its whole life and changes what stands behind it with `dup2`:
closing and reopening under threads can write into a foreign file that got the number in between. A number
that must not be written to is *shut*: it refers to something read-only, so `write` raises EBADF.
"""

from __future__ import annotations

from typing import Protocol


class Files(Protocol):
    """The operations, as a protocol. Paths are absolute; folders are the user's own."""

    def open_shut(self) -> int:
        """A new descriptor number that refuses writes."""
        ...

    def create(self, path: str) -> int:
        """A new file opened for appending; marked as being written until its last descriptor goes.

        Raises:
            FileExistsError: the name is taken.
        """
        ...

    def write(self, fd: int, data: bytes, /) -> int:
        """One `write()`; the count may be short."""
        ...

    def replace(self, fd: int, new: int) -> int:
        """Lets `fd` refer to what `new` refers to, and gives `new` back. Returns the number to use.

        That is `fd`, unless it was closed by foreign code meanwhile: then it may be a foreign file's.
        """
        ...

    def shut(self, fd: int) -> None:
        """Has `fd` refuse writes from now on."""
        ...

    def close(self, fd: int) -> None:
        """Gives the number back, if it is still ours."""
        ...

    def sync(self, path: str) -> None:
        """fsync of a file or a folder."""
        ...

    def sizes(self, folder: str) -> dict[str, int]:
        """Names and sizes of the regular files there that belong to this user; {} without the folder."""
        ...

    def folders(self, folder: str) -> list[str]:
        """Names of the folders there; [] without the folder. Links are left out."""
        ...

    def read_at(self, path: str, offset: int, count: int) -> bytes:
        """Up to `count` bytes; fewer only at the end of the file.

        Raises:
            OSError: ELOOP for a link, EPERM for what is no regular file of this user.
        """
        ...

    def being_written(self, path: str) -> bool:
        """Whether a descriptor of `create` still refers to this file, in any process."""
        ...

    def unlink_if(self, path: str, size: int) -> bool:
        """Deletes the file if it has exactly this size and is not being written; whether it did."""
        ...

    def unlink(self, path: str) -> None:
        """Deletes the file."""
        ...

    def touch_older(self, path: str, before: float) -> bool:
        """Sets the times of a file or folder to now if it was last changed before; whether it did."""
        ...

    def free_bytes(self, path: str) -> int:
        """Bytes that an unprivileged user may still write on this filesystem."""
        ...
