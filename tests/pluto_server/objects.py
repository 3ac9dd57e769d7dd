"""The object store and its presigned URLs. Only bucket and key are signed; the last PUT of a key wins."""

import itertools
import secrets
from dataclasses import dataclass
from urllib.parse import quote

BUCKET = "pluto"
SIGNATURE = "X-Amz-Signature"
PUT_LIFE_S = 3600
GET_LIFE_S = 5 * 24 * 3600


@dataclass(slots=True)
class Grant:
    """One presigned URL and what became of it."""

    signature: str
    url: str
    method: str
    key: str
    expires_ms: int
    run_id: int
    declared_size: int
    log_name: str
    step: int
    uploads: int = 0
    refused: int = 0


class ObjectStore:
    """Objects by key, and the URLs that were signed for them."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.grants: dict[str, Grant] = {}
        self._secret = secrets.token_hex(8)
        self._count = itertools.count(1)

    def sign(
        self,
        base_url: str,
        method: str,
        key: str,
        now_ms: int,
        life_s: float,
        *,
        run_id: int = 0,
        declared_size: int = 0,
        log_name: str = "",
        step: int = 0,
    ) -> Grant:
        """A URL for one method on one key."""
        signature = f"{self._secret}{next(self._count):08x}"
        query = f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires={round(life_s)}&{SIGNATURE}={signature}"
        url = f"{base_url}/{BUCKET}/{quote(key)}?{query}"
        expires_ms = now_ms + round(life_s * 1000)
        grant = Grant(signature, url, method, key, expires_ms, run_id, declared_size, log_name, step)
        self.grants[signature] = grant
        return grant

    def put_grants(self) -> list[Grant]:
        """The upload URLs, oldest first."""
        return [grant for grant in self.grants.values() if grant.method == "PUT"]

    def expire_all(self) -> None:
        """Every URL signed so far is out of date."""
        for grant in self.grants.values():
            grant.expires_ms = 0
