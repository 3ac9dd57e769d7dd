"""A value that is used but never shown."""

from __future__ import annotations

import re
from typing import NoReturn

from pluto_dist.errors import SettingError

LONGEST = 512

_KEY = re.compile(rf"[!-~]{{1,{LONGEST}}}")


class Secret:
    """An API key in memory: printing, formatting, pickling or encoding it never shows it (G11).

    It does not protect against code in the same process that asks for it with `reveal()`.

    Args:
        value: the key; white space around it is dropped.

    Raises:
        SettingError: it cannot be a key, and would end up in an error text of the HTTP library.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        value = value.strip()
        if _KEY.fullmatch(value) is None:
            raise SettingError(
                f"the API key has {len(value)} characters; allowed: 1 to {LONGEST} visible ASCII characters "
                "without spaces. Copy it again from the server's key page",
                setting="api_key",
            )
        self._value = value

    def reveal(self) -> str:
        """The key itself, for the one place that sends it."""
        return self._value

    @property
    def digest(self) -> str:
        """Twelve hex digits that tell keys apart and do not lead back to them."""
        import hashlib

        return hashlib.sha256(b"pluto-dist key id:" + self._value.encode()).hexdigest()[:12]

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        import hmac

        return isinstance(other, Secret) and hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled or copied; pass the object itself")
