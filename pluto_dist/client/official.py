"""What the official client's Run has and this one does not: where to find it instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

NOT_OFFERED = {
    "watch": "the official client has it: it records gradients of a module",
    "alert": "the official client has it",
    "start": "init() has started it",
    "stop": "end the Run by finish(), or leave it by close()",
    "settings": "settings are given to init(settings={...})",
}


class Hints:
    """An attribute that is not offered is an AttributeError that says where to find it."""

    if not TYPE_CHECKING:  # a type checker knows what is there

        def __getattr__(self, name: str) -> NoReturn:
            """Called for what is not there."""
            why = f": {NOT_OFFERED[name]}" if name in NOT_OFFERED else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{why}")
