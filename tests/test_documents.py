"""The documents say what the code is: numbers, settings, commands, names, links.

What a reader may copy from them is run by `tests/documents/test_examples.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from pluto_dist.cli.main import commands
from pluto_dist.cli.options import HELP, Command, Group
from pluto_dist.coordinator import main, watches
from pluto_dist.core.machine import beats, opening, views
from pluto_dist.core.rules import claims, series, verdict
from pluto_dist.host.settings import settings_keys, variables_of
from tests.documents.generated import parts_of, renewed
from tests.documents.pages import CHECKOUT, Page, anchor_of, page, pages
from tests.test_layers import ALLOWED

NUMBER = re.compile(r"\b([RG])([1-9][0-9]?)\b")
MODULE_PATH = re.compile(r"^(?:pluto_dist|tests|deploy|docs)(?:/[\w.*-]+)*/?$")
NAME = re.compile(r"^(?:[A-Z][a-z]+(?:[A-Z][a-z]+)+|_?[a-z]+(?:_[a-z]+)+)$")  # a class, a function, a field
NAMED = re.compile(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)+\b|\b[a-z]+(?:_[a-z]+)+\b")
VARIABLE = re.compile(r"\bPLUTO_DIST_[A-Z_]+\b")
CALL = re.compile(r"\bpluto-dist +(?P<words>[a-z][^\n`|;&#]*)")

ALL = pytest.mark.parametrize("each", pages(), ids=lambda each: each.path)


@cache
def sources() -> dict[Path, str]:
    """Files of package and tests in which a rule or a class may be named."""
    found = (path for folder in ("pluto_dist", "tests") for path in (CHECKOUT / folder).rglob("*"))
    return {path: path.read_text("utf-8") for path in found if path.suffix in (".py", ".txt", ".toml", ".sh")}


@cache
def words_in_code() -> frozenset[str]:
    """Names in the code."""
    texts = (text for path, text in sources().items() if path.suffix == ".py")
    return frozenset(word for text in texts for word in re.findall(r"\w+", text))


@cache
def options_of(command: Command) -> set[str]:
    """What may stand behind a command."""
    return {option for parameter in command.parameters for option in parameter.names} | {HELP}


@pytest.mark.parametrize(("letter", "path"), [("R", "docs/rules.md"), ("G", "docs/guarantees.md")])
def test_every_number_in_the_code_has_its_heading(letter: str, path: str) -> None:
    """Whoever meets R4 in a docstring finds it explained, and nothing is explained that is not there."""
    found = {number[0] for text in sources().values() for number in NUMBER.finditer(text)}
    named = {number for number in found if number.startswith(letter)}
    titles = {title.partition(".")[0] for title in page(path).titles if NUMBER.match(title)}
    assert named == titles, f"{path}: {sorted(named ^ titles)} have no heading, or no place in the code"


@ALL
def test_generated_parts_are_what_the_code_says(each: Page) -> None:
    """A setting, a command, a field: what a page says of it is made from its code."""
    stale = each.text != renewed(each.text)
    assert not stale, f"{each.path} is not what the code says now; run: python -m tests.documents"


def test_every_generated_part_stands_in_one_page() -> None:
    """A part that no page holds would be kept up for nobody."""
    from tests.documents.generated import PARTS

    assert sorted(name for each in pages() for name in parts_of(each.text)) == sorted(PARTS)


@ALL
def test_links_lead_somewhere(each: Page) -> None:
    """Files exist, and so do the headings in them; what is on the web is not looked at."""
    broken = [target for target in each.links if not _is_there(each, target)]
    assert not broken


def _is_there(each: Page, target: str) -> bool:
    if re.match(r"[a-z]+:", target):
        return True
    name, _, anchor = target.partition("#")
    path = (CHECKOUT / each.path).parent / name if name else CHECKOUT / each.path
    if not path.exists():
        return False
    if not anchor:
        return True
    found = str(path.resolve().relative_to(CHECKOUT))
    return anchor in page(found).anchors


@ALL
def test_paths_that_are_named_exist(each: Page) -> None:
    """`pluto_dist/core/rules/verdict.py` in a document is a file of the project."""
    named = [code for code in each.code if MODULE_PATH.match(code) and "/" in code]
    assert not [code for code in named if not list(CHECKOUT.glob(code.rstrip("/")))]


@ALL
def test_variables_that_are_named_are_settings(each: Page) -> None:
    """A misspelt variable has no effect, so it must not be in a document."""
    known = {name for key in settings_keys() for name in variables_of(key)}
    named = {found[0] for found in VARIABLE.finditer(each.text.replace("PLUTO_DIST_<NAME>", ""))}
    assert named <= known


@ALL
def test_commands_that_are_named_exist_with_their_options(each: Page) -> None:
    """In prose and in blocks: `pluto-dist show RUN --plot loss`."""
    wrong = [
        fault for code in _code_of(each) for found in CALL.finditer(code) if (fault := _fault(found["words"]))
    ]
    assert not wrong


def _code_of(each: Page) -> Iterator[str]:
    yield from each.code
    yield from (block.code for block in each.blocks if block.language in ("sh", "bash", "console", "yaml"))


def _fault(words: str) -> str:
    """What is wrong with the words behind `pluto-dist`, "" if nothing is."""
    command: Command | Group = commands
    given = words.split()
    while given and isinstance(command, Group):
        if given[0] not in command.commands:
            return f"no command {given[0]!r} in {words!r}"
        command = command.commands[given.pop(0)]
    known = {HELP, "--version"} if isinstance(command, Group) else options_of(command)
    own = given[: given.index("--")] if "--" in given else given
    unknown = [word for word in own if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]
    return f"no option {unknown} in {words!r}" if unknown else ""


@pytest.mark.parametrize(
    "path",
    ["docs/architecture.md", "docs/rules.md", "docs/formats.md", "docs/guarantees.md", "CONTRIBUTING.md"],
)
def test_names_in_documents_are_in_the_code(path: str) -> None:
    """What was renamed in the code is renamed in the documents too."""
    drawn = [
        word for block in page(path).blocks if block.language == "text" for word in NAMED.findall(block.code)
    ]
    named = {
        code.partition("(")[0].partition("=")[0].rpartition(".")[2] for code in (*page(path).code, *drawn)
    }
    assert not {name for name in named if NAME.match(name)} - words_in_code()


SECONDS = [
    (watches.UNSEEN_S, "after {} s without a heartbeat the lease is taken for gone"),
    (claims.RANK_ZERO_S, "if it has not claimed within {} s of the first rank"),
    (claims.OWNER_WAIT_S, "rank 0 of another job waits up to {} s for that owner"),
    (verdict.ORPHAN_S, "the Run is *orphaned* for {} s"),
    (verdict.ORPHAN_S, "| the owner died without a word | after {} s (R6) |"),
    (verdict.RESTART_WINDOW_S, "when the launcher is gone, or {} s after the last member ended"),
    (series.HOLD_S, "It holds a new name of a worker or side for up to {} s"),
    (verdict.RANKING_WINDOW_S, "Within {} s of the first evidence the kind decides"),
    (verdict.DRAIN_S, "{} s after the owner's end; a failure of a worker until then counts"),
    (verdict.EXIT_S, "when it is known, at most {} s after the end"),
    (verdict.LAUNCHER_GONE_S, "after {} s, FAILED with `launcher gone`"),
    (views.FILES_MS / 1000, "files are waited for {} s at most"),
    (beats.LAST_S, "The status waits {} s for that answer"),
    (main.SIGTERM_S, "goes on serving until its clients have left, at most {} s"),
    (opening.OWNER_COMES_S, "the server still knows no such Run after {} s"),
]


@pytest.mark.parametrize(("seconds", "sentence"), SECONDS, ids=[sentence for _, sentence in SECONDS])
def test_times_in_the_rules_are_those_of_the_code(seconds: float, sentence: str) -> None:
    """A time that is changed in the code is changed in its rule too."""
    assert sentence.format(f"{seconds:g}") in " ".join(page("docs/rules.md").text.split())


@pytest.mark.parametrize(
    ("title", "anchor"),
    [
        ("R1. The lifecycle stream is the truth", "r1-the-lifecycle-stream-is-the-truth"),
        ("`pluto-dist run`: the Run", "pluto-dist-run-the-run"),
        ("Files, images, tables", "files-images-tables"),
    ],
)
def test_anchors_are_made_as_github_makes_them(title: str, anchor: str) -> None:
    """Seen there."""
    assert anchor_of(title) == anchor


def test_every_ring_has_its_row_in_the_architecture() -> None:
    """The table there and the one that holds the imports have the same rings."""
    rows = re.findall(r"^\| `pluto_dist/([\w/]+)` \|", page("docs/architecture.md").text, re.MULTILINE)
    assert {row.replace("/", ".") for row in rows} == ALLOWED.keys() - {"core"}


def test_the_readme_is_short() -> None:
    """It says what a user gets; everything else has a page of its own."""
    assert len((CHECKOUT / "README.md").read_bytes()) < 10_000


def test_the_change_log_begins_with_what_is_not_released() -> None:
    """Keep a Changelog: whoever changes a behaviour adds a line there."""
    titles = page("CHANGELOG.md").titles
    assert titles[1] == "Unreleased"
    assert set(titles) - {"Changelog", "Unreleased", "0.1.0"} <= {
        "Added",
        "Changed",
        "Fixed",
        "Removed",
        "Security",
    }


def test_the_pre_commit_hooks_are_the_projects_own_tools() -> None:
    """Nothing is downloaded, and every program that a hook starts comes with the project's `test` extra."""
    (repository,) = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert repository["repo"] == "local"
    programs = {hook["entry"].partition(" ")[0] for hook in repository["hooks"]}
    assert programs == {".venv/bin/ruff", ".venv/bin/mypy", ".venv/bin/python"}
