"""An API key does not come back in what a server says (G11)."""

from __future__ import annotations

import httpx

from pluto_dist.backend.pluto.client import Http
from pluto_dist.backend.pluto.exchange import Answer, explain
from pluto_dist.secret import Secret

KEY = "mlpi_abc-NEVER.to_be_seen"


def test_a_server_that_quotes_the_key_does_not_bring_it_to_the_disk() -> None:
    """Proxies echo headers into error pages; reasons are kept in events, documents and logs."""

    def echo(request: httpx.Request) -> httpx.Response:
        return httpx.Response(401, text=f"no such token: {request.headers['Authorization']} ({KEY})")

    http = Http(transport=httpx.MockTransport(echo))
    answer = http.send("read", "GET", "http://127.0.0.1:9/api", Secret(KEY))
    http.close()
    assert isinstance(answer, Answer)
    assert KEY.encode() not in answer.body
    assert "no such token: Bearer <the API key>" in explain(answer)
