"""What comes from other processes and from files: which numbers are taken, and what reading may raise.

Numbers have to fit everywhere they may go: MessagePack and the server end at 64 bits, pids at 32.
What is outside is refused where it is decoded, so that nothing behind that has to think of it.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

# One more, the next automatic step, is still a 64-bit integer everywhere, signed ones included.
MAX_STEP: Final = 2**63 - 2

Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Pid = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]

# Everything that a decoder raises for bytes that it does not like: msgspec's errors and a bad UTF-8 are
# ValueErrors, too deep a nesting is not.
UNREADABLE: Final = (ValueError, RecursionError)


def step_behind(step: int) -> int:
    """The step that comes next; a record that was not written by this package may claim any."""
    return min(step, MAX_STEP) + 1
