"""Which requests the page's server answers: the rules, pure, and the middleware that applies them.

The server listens on loopback, but every page that a person has open in the browser can send requests there,
and every user of the machine can. Three things are held:

    host      the name in the Host header is an address or this machine's; a name of another site that points
              here (DNS rebinding) is refused
    origin    a request that a page of another origin makes is refused
    token     a secret of this start, in the address that is printed; it becomes a cookie that other sites'
              requests do not carry
"""

from __future__ import annotations

import hmac
import ipaddress
from http import HTTPStatus
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
