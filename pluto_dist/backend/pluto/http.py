"""Requests over the wire: one attempt each, every foreign error translated here.

Nothing that leaves this module carries the API key: reasons are built from the kind of error, not from the
request, and the key is put on each request instead of on the client. An upload address is as good as a key
for its object, so it is never part of a reason either.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping

import httpx
import msgspec

from pluto_dist.backend.pluto.exchange import Answer, Broken, Kind, Progress, epoch_s, seconds_until
from pluto_dist.secret import Secret

CONNECT_S = 5.0
POOL_S = 5.0
KEEP_ALIVE_S = 15.0  # below the idle limits of usual proxies (60 s), so that they do not close first
PIECE = 1 << 20
ANSWER_LIMIT = 64 << 20
ANSWER_S = 120.0  # for a whole body; the read timeout only bounds the wait for its next piece
CONTENT_TYPE = {"metrics": "application/x-ndjson", "rows": "application/x-ndjson"}

# Ingest blocks instead of refusing when its queue is full, so it gets longer.
READ_S: dict[Kind, float] = {
    "control": 30.0,
    "read": 30.0,
    "beat": 10.0,
    "alert": 30.0,
    "metrics": 60.0,
    "rows": 60.0,
    "presign": 30.0,
    "put": 120.0,
}

# A proxy from the environment never stands between a process and its own machine.
LOOPBACK = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}

_PROGRESS: tuple[tuple[type[Exception], Progress], ...] = (
    (httpx.ConnectError, "unsent"),
    (httpx.ConnectTimeout, "unsent"),
    (httpx.PoolTimeout, "unsent"),
    (httpx.ProxyError, "unsent"),
    (httpx.UnsupportedProtocol, "unsent"),
    (httpx.InvalidURL, "unsent"),
    (httpx.WriteError, "partly"),
    (httpx.WriteTimeout, "partly"),
    (httpx.LocalProtocolError, "partly"),
)


class Http:
    """Connections to one target; safe to use from several threads."""

    def __init__(
        self,
        *,
        user_agent: str = "pluto-dist",
        transport: httpx.BaseTransport | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole upload addresses at INFO
        self._wall = wall
        self._unusable = ""
        try:
            self._client = _client(user_agent, transport)
        except (ImportError, OSError, ValueError, httpx.InvalidURL) as fault:
            # httpx reads every proxy variable at once, those for other hosts too, and refuses to be made.
            self._unusable = _unusable(fault)

    def send(
        self,
        kind: Kind,
        method: str,
        url: str,
        key: Secret,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer | Broken:
        """Sends one request to a service of the server; an answer that quotes the key is changed."""
        fields = {"Authorization": f"Bearer {key.reveal()}", **(headers or {})}
        if body is not None:
            fields["Content-Type"] = CONTENT_TYPE.get(kind, "application/json")
        answer = self._exchange(kind, method, url, fields, body)
        if isinstance(answer, Answer) and (secret := key.reveal().encode()) in answer.body:
            return msgspec.structs.replace(answer, body=answer.body.replace(secret, b"<the API key>"))
        return answer

    def put(self, url: str, pieces: Iterator[bytes], size: int) -> Answer | Broken:
        """Uploads pieces of `size` bytes in all to an upload address, without the API key.

        What `pieces` raises comes out of here. The request is incomplete then, so that storage keeps nothing
        of it.
        """
        return self._exchange("put", "PUT", url, {"Content-Length": str(size)}, pieces)

    def fetch(self, url: str) -> Iterator[bytes]:
        """The bytes behind a download address, piece by piece, without the API key.

        Raises:
            OSError: storage does not give them.
        """
        timeout = httpx.Timeout(READ_S["put"], connect=CONNECT_S, pool=POOL_S)
        if self._unusable:
            raise OSError(self._unusable)
        try:
            with self._client.stream("GET", url, timeout=timeout, follow_redirects=False) as response:
                if response.status_code != httpx.codes.OK:
                    raise OSError(f"storage answers {response.status_code} to a download")
                yield from response.iter_bytes(PIECE)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as fault:
            raise OSError(f"a download broke off: {_broken(fault).reason}") from fault

    def close(self) -> None:
        """Closes all connections."""
        if not self._unusable:
            self._client.close()

    def _exchange(
        self, kind: Kind, method: str, url: str, headers: dict[str, str], body: bytes | Iterator[bytes] | None
    ) -> Answer | Broken:
        if self._unusable:
            return Broken("unsent", self._unusable)
        timeout = httpx.Timeout(READ_S[kind], connect=CONNECT_S, pool=POOL_S)
        try:
            with self._client.stream(
                method, url, headers=headers, content=body, timeout=timeout, follow_redirects=False
            ) as response:
                return self._answer(response)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as fault:
            return _broken(fault)

    def _answer(self, response: httpx.Response) -> Answer | Broken:
        body = bytearray()
        deadline = time.monotonic() + ANSWER_S
        for piece in response.iter_bytes():
            body += piece
            if len(body) > ANSWER_LIMIT:
                return Broken("sent", f"the answer is longer than {ANSWER_LIMIT >> 20} MiB")
            if time.monotonic() > deadline:
                return Broken("sent", f"the answer was not complete after {ANSWER_S:.0f} s")
        now_s = epoch_s(response.headers.get("Date"))
        return Answer(
            status=response.status_code,
            body=bytes(body),
            after_s=seconds_until(response.headers.get("Retry-After"), now_s or self._wall()),
            server_ms=None if now_s is None else int(now_s * 1000),
        )


def _client(user_agent: str, transport: httpx.BaseTransport | None) -> httpx.Client:
    return httpx.Client(
        headers={"User-Agent": user_agent},
        limits=httpx.Limits(max_connections=16, max_keepalive_connections=8, keepalive_expiry=KEEP_ALIVE_S),
        mounts=LOOPBACK,
        transport=transport,
    )


def _unusable(fault: Exception) -> str:
    """Why the environment allows no connections; httpx masks passwords in the address of a proxy."""
    if isinstance(fault, ImportError):
        return "a proxy variable names a SOCKS proxy, which needs `pip install 'httpx[socks]'` here"
    if isinstance(fault, OSError):  # of TLS too
        return f"SSL_CERT_FILE or SSL_CERT_DIR cannot be used ({fault}); correct or unset it"
    variables = "ALL_PROXY, HTTPS_PROXY, HTTP_PROXY or NO_PROXY"
    return f"{variables} cannot be used ({fault}); correct or unset it, in lower case too"


def _broken(fault: Exception) -> Broken:
    name = type(fault).__name__
    progress: Progress = next((step for cause, step in _PROGRESS if isinstance(fault, cause)), "sent")
    # Only these have texts of the operating system; others quote the request, its headers included.
    told = isinstance(fault, httpx.NetworkError) and str(fault)
    return Broken(progress, f"{name}: {fault}" if told else name)
