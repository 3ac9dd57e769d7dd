"""The documents as data: pages, headings with their anchors, links, blocks of code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec

CHECKOUT = Path(__file__).parents[2]

_FENCE = re.compile(r"^(?P<fence>```+)(?P<info>[^`]*)$")
_HEADING = re.compile(r"^#{1,6} +(?P<title>.+?) *#*$")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^()\s]+)\)")
_CODE = re.compile(r"(?P<ticks>`+)(?P<code>.+?)(?P=ticks)", re.DOTALL)
_NO_ANCHOR = re.compile(r"[^\w\- ]")


class Block(msgspec.Struct, frozen=True):
    """A fenced block of code.

    Attributes:
        line: of its first line of code, from 1.
        info: what stands behind the fence: the language, and notes such as `parsed`.
    """

    page: str
    line: int
    info: str
    code: str

    @property
    def language(self) -> str:
        """First word of the info."""
        return self.info.partition(" ")[0]

    @property
    def notes(self) -> frozenset[str]:
        """The other words."""
        return frozenset(self.info.split()[1:])

    @property
    def where(self) -> str:
        """For messages and names of tests."""
        return f"{self.page}:{self.line}"


class Page(msgspec.Struct, frozen=True):
    """One Markdown file.

    Attributes:
        path: relative to the checkout.
        prose: the text without its blocks of code, same number of lines.
    """

    path: str
    text: str
    prose: str
    blocks: tuple[Block, ...]

    @property
    def anchors(self) -> frozenset[str]:
        """Anchors of its headings, by GitHub's rule."""
        found: dict[str, int] = {}
        for title in self.titles:
            anchor = anchor_of(title)
            found[anchor] = found.get(anchor, -1) + 1
        return frozenset(
            anchor if not number else f"{anchor}-{number}"
            for anchor, repeats in found.items()
            for number in range(repeats + 1)
        )

    @property
    def titles(self) -> tuple[str, ...]:
        """Texts of its headings."""
        return tuple(
            match["title"] for line in self.prose.splitlines() if (match := _HEADING.match(line)) is not None
        )

    @property
    def links(self) -> tuple[str, ...]:
        """Targets of its links; inline code holds none."""
        return tuple(match["target"] for match in _LINK.finditer(_CODE.sub("", self.prose)))

    @property
    def code(self) -> tuple[str, ...]:
        """Inline code."""
        return tuple(match["code"].strip() for match in _CODE.finditer(self.prose))


def anchor_of(title: str) -> str:
    """`## R1. The stream` is found at `#r1-the-stream`."""
    return _NO_ANCHOR.sub("", title.strip().lower()).replace(" ", "-")


@cache
def pages() -> tuple[Page, ...]:
    """All pages of the project."""
    found = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md"), *CHECKOUT.glob("deploy/**/*.md")]
    return tuple(read(path) for path in sorted(found))


def page(path: str) -> Page:
    """One of them."""
    return next(each for each in pages() if each.path == path)


def read(path: Path) -> Page:
    """Reads one page."""
    name, text = str(path.relative_to(CHECKOUT)), path.read_text(encoding="utf-8")
    lines = text.splitlines()
    prose, blocks = list(lines), []
    for start, end, info in _fences(lines):
        blocks.append(Block(name, start + 2, info.strip(), "\n".join(lines[start + 1 : end]) + "\n"))
        prose[start : end + 1] = [""] * (end + 1 - start)
    return Page(name, text, "\n".join(prose), tuple(blocks))


def _fences(lines: list[str]) -> Iterator[tuple[int, int, str]]:
    """First and last line of each block, from 0, and what stands behind the opening fence."""
    start, fence, info = -1, "", ""
    for number, line in enumerate(lines):
        match = _FENCE.match(line)
        if match is None:
            continue
        if start < 0:
            start, fence, info = number, match["fence"], match["info"]
        elif match["fence"] == fence and not match["info"].strip():
            yield start, number, info
            start = -1
    if start >= 0:
        raise ValueError(f"a block of code that begins in line {start + 1} has no end")
