"""File names: `metrics-00000001.spool`, and `metrics.p4711-00000001.spool` for a forked child's chain."""

from __future__ import annotations

import re
from functools import lru_cache

STREAMS = ("lifecycle", "metrics", "data", "console", "files")
LAST_SEGMENT = 99_999_999  # eight digits
DRAIN_LOCK = "console.lock"  # locked while the drain of a captured console lives

_STREAM = rf"(?P<kind>{'|'.join(STREAMS)})(?:\.p(?P<pid>[1-9]\d*))?"
_stream = re.compile(_STREAM, re.ASCII)
_segment = re.compile(rf"(?P<stream>{_STREAM})-(?P<number>\d{{8}})\.spool", re.ASCII)


def segment_name(stream: str, number: int) -> str:
    """File name of a segment."""
    return f"{stream}-{number:08d}.spool"


@lru_cache  # a folder is looked at twice a second, and has mostly the names that it had
def parse_segment(name: str) -> tuple[str, int] | None:
    """Stream and segment number, or None for a file that is no segment."""
    found = _segment.fullmatch(name)
    return (found["stream"], int(found["number"])) if found else None


def child_stream(kind: str, pid: int) -> str:
    """Name of the chain that the forked child `pid` writes."""
    return f"{kind}.p{pid}"


def stream_kind(stream: str) -> str:
    """`metrics` for both `metrics` and `metrics.p4711`.

    Raises:
        ValueError: this is no stream's name.
    """
    return _parsed(stream)["kind"]


def stream_pid(stream: str) -> int | None:
    """Pid of the forked child that writes this chain, None for the lease's own process."""
    pid = _parsed(stream)["pid"]
    return int(pid) if pid else None


def _parsed(stream: str) -> re.Match[str]:
    found = _stream.fullmatch(stream)
    if not found:
        raise ValueError(f"{stream!r} is no stream; streams are {', '.join(STREAMS)}, or one of a child's")
    return found
