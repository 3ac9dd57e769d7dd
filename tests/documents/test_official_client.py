"""`docs/official-client.md` against the installed official client, and against what is here."""

from __future__ import annotations

import inspect
import re
from functools import cache
from typing import NamedTuple

import pytest

import pluto_dist
from pluto_dist import errors
from pluto_dist.host.settings import load, settings_keys, variables_of
from tests.documents.pages import page
from tests.official import needs_official_client
from tests.official_surface import surface

PATH = "docs/official-client.md"
HEADINGS = (
    "Module",
    "Arguments",
    "Run",
    "Classes",
    "Errors",
    "Settings",
    "Environment",
    "Commands",
    "Adapters",
)
OURS_IN_PLACE = {  # of its errors
    "RunExistsError": (errors.RunExistsError, RuntimeError),
    "PlutoAuthError": (errors.KeyRefusedError, RuntimeError),
    "PlutoRequestError": (errors.ServerRefusedError, RuntimeError),
}


class Row(NamedTuple):
    """What the document says of one name."""

    here: str
    how: str


@cache
def rows() -> dict[str, dict[str, Row]]:
    """By heading and name."""
    found: dict[str, dict[str, Row]] = {}
    heading = ""
    for line in page(PATH).text.splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 3:
            for name in re.findall(r"`([^`]+)`", cells[0]):
                assert name not in found.setdefault(heading, {}), f"{name} stands twice"
                found[heading][name] = Row(cells[1], cells[2])
    return found


def said(heading: str, *answers: str) -> list[str]:
    return [name for name, row in rows()[heading].items() if row.here in answers]


@needs_official_client
@pytest.mark.parametrize("heading", HEADINGS)
def test_every_name_of_the_installed_client_has_its_row(heading: str) -> None:
    """A new version's names are missing here until somebody has looked at them."""
    assert sorted(rows()[heading]) == sorted(surface()[heading])


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_row_says_yes_or_why_not(heading: str) -> None:
    for name, row in rows()[heading].items():
        assert row.here in ("yes", "partly", "no"), name
        assert row.here == "yes" or row.how, f"{name} has no reason"


def takes(function: object, argument: str) -> bool:
    """Whether a function has the argument; `**` for any."""
    found = inspect.signature(function).parameters  # type: ignore[arg-type] # functions and classes
    free = any(each.kind is each.VAR_KEYWORD for each in found.values())
    return free if argument == "**" else argument in found


def is_there(name: str) -> bool:
    """Whether a name of the tables is one of this package's."""
    path, _, argument = name.rstrip(")").partition("(")
    found: object = pluto_dist
    for part in path.split("."):
        if not hasattr(found, part):
            return False
        found = inspect.getattr_static(found, part) if found is pluto_dist.Run else getattr(found, part)
    return not argument or takes(found, argument)


@pytest.mark.parametrize("name", said("Module", "yes", "partly"))
def test_a_name_that_is_promised_is_public(name: str) -> None:
    assert name in pluto_dist.__all__


@pytest.mark.parametrize("name", said("Module", "no"))
def test_a_name_that_is_not_offered_says_where_to_find_it(name: str) -> None:
    with pytest.raises(AttributeError, match=rf"pluto_dist has no '{name}': .{{10,}}"):
        getattr(pluto_dist, name)


@pytest.mark.parametrize("name", [each for part in HEADINGS[1:4] for each in said(part, "yes", "partly")])
def test_what_is_promised_is_there(name: str) -> None:
    assert is_there(name)


@pytest.mark.parametrize("name", [each for part in HEADINGS[2:4] for each in said(part, "no")])
def test_what_is_refused_is_not_half_there(name: str) -> None:
    """But for arguments, which are taken and told."""
    assert "(" in name or not is_there(name)


@pytest.mark.parametrize("name", said("Errors", "yes", "partly"))
def test_an_error_is_also_what_a_script_catches(name: str) -> None:
    ours, theirs = OURS_IN_PLACE[name]
    assert issubclass(ours, theirs)
    assert issubclass(errors.ForkError, ValueError)
    assert issubclass(errors.ClaimError, RuntimeError)


@pytest.mark.parametrize("name", list(rows()["Settings"]))
def test_a_setting_is_taken_and_told_if_it_matters(name: str) -> None:
    row = rows()["Settings"][name]
    values = {
        "_auth": "mlps_x",
        "host": "example.org",
        "mode": "perf",
        "x_sys_sampling_interval": 4,
        "sanitize_logs": False,
    }
    loaded = load({}, {name: values.get(name, "given")})
    assert bool(loaded.left_out) == row.how.endswith("told"), loaded.left_out
    if row.here == "no":
        assert name not in settings_keys()
        assert any(repr(name) in note for note in loaded.notes)


@pytest.mark.parametrize("name", list(rows()["Environment"]))
def test_a_variable_is_read_as_the_table_says(name: str) -> None:
    read = {variable for key in settings_keys() for variable in variables_of(key)}
    assert (name in read) == (rows()["Environment"][name].here == "yes")
