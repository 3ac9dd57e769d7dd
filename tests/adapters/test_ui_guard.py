"""Who may ask the page's server: host, origin, site and token, one by one."""

from __future__ import annotations

import pytest

from pluto_dist.ui.serve import Guard

GUARD = Guard("secret", frozenset({"node7", "127.0.0.1"}), 8642)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8642",
        "localhost:8642",
        "LOCALHOST",
        "[::1]:8642",
        "node7:8642",
        "10.1.2.3",
        "localhost:9999",
    ],
)
def test_addresses_and_names_of_this_machine_are_served(host: str):
    """An address cannot be pointed elsewhere; a port that ssh forwards may have any number."""
    assert GUARD.refusal(host, None, None) is None
    assert GUARD.refusal(host, f"http://{host}", "same-origin") is None


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8642", "localhost.evil.example", "", "[", "node70"]
)
def test_a_name_of_another_site_that_points_here_is_refused(host: str):
    """DNS rebinding."""
    found = GUARD.refusal(host, None, None)
    assert found is not None
    assert found.status == 421
    assert repr(host) in found.reason


@pytest.mark.parametrize(
    ("origin", "site"),
    [
        ("https://evil.example", "cross-site"),
        ("https://evil.example", None),
        ("http://localhost:3000", "same-site"),
        ("http://localhost:3000", None),
        ("null", None),
        (None, "cross-site"),
        (None, "same-site"),
    ],
)
def test_a_page_of_another_origin_is_refused_even_of_this_machine(origin: str | None, site: str | None):
    found = GUARD.refusal("localhost:8642", origin, site)
    assert found is not None
    assert found.status == 403


def test_a_person_and_the_page_itself_are_served():
    assert GUARD.refusal("localhost:8642", None, "none") is None
    assert GUARD.refusal("localhost:8642", "http://localhost:8642", "same-origin") is None


@pytest.mark.parametrize("token", [None, "", "secre", "secret ", "SECRET", "sécret"])
def test_only_the_token_of_this_start_opens(token: str | None):
    assert not GUARD.knows(token)
    assert GUARD.knows("secret")
