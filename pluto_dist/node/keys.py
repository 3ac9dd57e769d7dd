"""API keys in the coordinator's memory, and nowhere else (G11)."""

from __future__ import annotations

import threading

from pluto_dist.core.secret import Secret
from pluto_dist.errors import ProtocolError, SettingError


class Keys:
    """Keys by their digest; processes hand them over, again after a restart of the coordinator."""

    def __init__(self) -> None:
        self._keys: dict[str, Secret] = {}
        self._lock = threading.Lock()

    def remember(self, key: str) -> str:
        """Keeps a key; returns its digest, as it stands in `Target.key_id`.

        Raises:
            ProtocolError: what came is no key.
        """
        try:
            secret = Secret(key)
        except SettingError as error:
            raise ProtocolError(error.message) from None
        with self._lock:
            self._keys[secret.digest] = secret
        return secret.digest

    def get(self, key_id: str) -> Secret | None:
        """The key with this digest."""
        with self._lock:
            return self._keys.get(key_id)
