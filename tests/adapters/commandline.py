"""A command of `pluto-dist` in this process: what it prints, and its exit code."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple
from unittest.mock import patch

import pytest

from pluto_dist.cli.main import app


class Done(NamedTuple):
    """What a command came to."""

    exit_code: int
    stdout: str
    stderr: str


def invoke(words: Sequence[str], env: Mapping[str, str] | None = None) -> Done:
    """Runs a command, with more in its environment."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with (
        patch.dict(os.environ, env or {}),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        app(words)
    said = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
    return Done(int(ended.value.code or 0), *said)
