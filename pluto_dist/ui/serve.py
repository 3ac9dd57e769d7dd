"""The server of the page: which requests it answers, its socket, the address that is printed, its end.

The server listens on loopback, but every page that a person has open in the browser can send requests there,
and every user of the machine can. Three things are held:

    host      the name in the Host header is an address or this machine's; a name of another site that points
              here (DNS rebinding) is refused
    origin    a request that a page of another origin makes is refused
    token     a secret of this start, in the address that is printed; it becomes a cookie that other sites'
              requests do not carry
"""

from __future__ import annotations

import errno
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import urlsplit

import msgspec
import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pluto_dist.errors import MachineError, UsageError
from pluto_dist.read.lookup import Lookup
from pluto_dist.ui.app import Pages

SAFE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Refused(msgspec.Struct, frozen=True):
    """Why a request gets no answer."""

    status: HTTPStatus
    reason: str


class Guard:
    """The rules.

    Attributes:
        token: the secret of this start.
        cookie: name of the cookie that carries it.

    Args:
        token: the secret.
        names: host names under which the page may be asked for, besides addresses and `localhost`.
        port: of the server; a cookie is for all ports of a host, so its name has the number.
    """

    def __init__(self, token: str, names: frozenset[str], port: int) -> None:
        self.token = token
        self._names = frozenset(name.lower() for name in names) | {"localhost"}
        self.cookie = f"pluto-dist-ui-{port}"

    def refusal(self, host: str, origin: str | None, site: str | None) -> Refused | None:
        """Why a request from there is not served, None if it is.

        Args:
            host: its Host header.
            origin: its Origin header, None without one.
            site: its Sec-Fetch-Site header, None without one.
        """
        if not self._is_ours(host):
            return Refused(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"{host!r} is not a name of this page; use the printed address, or start it with --host NAME",
            )
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return Refused(HTTPStatus.FORBIDDEN, f"a page of {origin} may not ask here")
        if site in ("cross-site", "same-site"):
            return Refused(HTTPStatus.FORBIDDEN, "a page of another site may not ask here")
        return None

    def knows(self, token: str | None) -> bool:
        """Whether the token is that of this start."""
        return token is not None and hmac.compare_digest(token.encode(), self.token.encode())

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._names or _is_address(name)


class Guarded:
    """Puts the rules before an application, and safe headers on its answers."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers itself, or lets the application answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE_HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer = self._answer(HTTPConnection(scope))
        await (answer or self._app)(scope, receive, with_headers)

    def _answer(self, asked: HTTPConnection) -> Response | None:
        """What is answered in place of the application; None if the request is fine."""
        headers, token = asked.headers, asked.query_params.get("token")
        page = asked.url.path == "/"  # may be opened by a link from anywhere; it is the same for all
        site = None if page else headers.get("sec-fetch-site")
        refused = self._guard.refusal(headers.get("host", ""), headers.get("origin"), site)
        if refused is not None:
            return PlainTextResponse(f"{refused.reason}\n", refused.status)
        if page and token is not None:
            return self._opened() if self._guard.knows(token) else _unknown()
        bearer = headers.get("authorization", "").removeprefix("Bearer ") or None
        if self._guard.knows(asked.cookies.get(self._guard.cookie)) or self._guard.knows(bearer):
            return None
        return _unknown()

    def _opened(self) -> Response:
        """The token leaves the address bar, and with it history and screenshots."""
        answer = RedirectResponse("/", HTTPStatus.SEE_OTHER)
        answer.set_cookie(self._guard.cookie, self._guard.token, httponly=True, samesite="lax")
        return answer


def _unknown() -> Response:
    return PlainTextResponse(
        "This page needs the address that `pluto-dist ui` has printed: its token is missing, wrong, or of an "
        "earlier start.\n",
        HTTPStatus.UNAUTHORIZED,
    )


def _is_address(name: str) -> bool:
    """An address cannot be pointed elsewhere, as a name can."""
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


PORT = 8642
TRIED = 20  # ports from the first one on, if the caller has not chosen one
LEAVE_S = 2


class Server:
    """Serves the page until it is stopped.

    Attributes:
        address: with the token, for a person to open.
        only_here: no other machine reaches it.

    Args:
        make: a lookup with what takes its remarks.
        host: name or address to listen on.
        port: None for the first free one from `PORT` on, 0 for any.
        only_store: of the Runs of the node only those of the store that is looked at.

    Raises:
        UsageError: the host is none of this machine's.
        MachineError: the port is taken, or may not be used.
    """

    def __init__(
        self,
        make: Callable[[Callable[[str], object]], Lookup],
        host: str = "127.0.0.1",
        port: int | None = None,
        *,
        only_store: bool = False,
    ) -> None:
        self._socket = _listening(host, port)
        number: int = self._socket.getsockname()[1]
        guard = Guard(secrets.token_urlsafe(24), frozenset({host, socket.gethostname()}), number)
        pages = Pages(make, only_store=only_store, stopping=self._is_stopping)
        config = uvicorn.Config(
            Guarded(pages.app(), guard),
            log_level="error",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=LEAVE_S,
        )
        self._server = uvicorn.Server(config)
        self.only_here = ipaddress.ip_address(self._socket.getsockname()[0]).is_loopback
        self.address = f"http://{_shown(host)}:{number}/?token={guard.token}"

    def run(self) -> None:
        """Returns when it is interrupted or stopped."""
        with self._socket:
            self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Lets `run` return; for another thread."""
        self._server.should_exit = True

    def close(self) -> None:
        """Gives the port back, if it was never served."""
        self._socket.close()

    def _is_stopping(self) -> bool:
        return self._server.should_exit


def _listening(host: str, port: int | None) -> socket.socket:
    family, address = _resolved(host)
    ports = [port] if port is not None else list(range(PORT, PORT + TRIED))
    for number in ports:
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((address, number))
            found.listen(128)
        except (OSError, OverflowError) as error:
            found.close()
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE and number != ports[-1]:
                continue
            raise _refused(error, host, ports) from error
        return found
    raise AssertionError("at least one port is tried")


def _resolved(host: str) -> tuple[socket.AddressFamily, str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UsageError(
            f"--host {host!r} is no name or address of this machine ({error}); 127.0.0.1 is for this machine "
            "alone, 0.0.0.0 for everybody who can reach it"
        ) from error
    return found[0][0], str(found[0][4][0])


def _refused(error: OSError | OverflowError, host: str, ports: list[int]) -> MachineError | UsageError:
    which = f"{ports[0]}" if len(ports) == 1 else f"{ports[0]} to {ports[-1]}"
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return MachineError(
            f"port {which} of {host} is taken by another program, maybe by another `pluto-dist ui`; choose "
            "one with --port, or let the system choose with --port 0"
        )
    if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL:
        return UsageError(f"--host {host!r} is no address of this machine; 127.0.0.1 and 0.0.0.0 always are")
    return MachineError(f"port {which} of {host} cannot be used: {error}; choose another with --port")


def _shown(host: str) -> str:
    """The host name by which a browser on this machine, or on another one, reaches the server."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return socket.gethostname()
    return f"[{host}]" if address.version == 6 else host
