"""The call of the user's code that is being carried out, for messages that come later."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

_SAID = {
    "finish": "pluto.finish()",
    "Run.finish": "run.finish()",
    "Run.close": "run.close()",
    "Run.__exit__": "the end of its `with` block",
    "Hooks._at_exit": "the exit of the interpreter",
    "Hooks._sigterm": "SIGTERM",
    "Hooks._give_up": "SIGTERM",
    "_end_former_cell": "the next init() in this notebook",
    "Tasks.end_failed": "the next init(), because its task had failed",
}


def calling() -> str:
    """The outermost call of this package on the stack, and the line of the user's code that makes it."""
    frame: FrameType | None = sys._getframe(1)
    names: list[str] = []
    while frame is not None and frame.f_globals.get("__name__", "").startswith("pluto_dist."):
        names.append(frame.f_code.co_qualname)
        frame = frame.f_back
    said = next((_SAID[name] for name in reversed(names) if name in _SAID), f"{names[-1]}()" if names else "")
    if frame is None:
        return said
    return f"{said} at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
