"""`pluto-dist doctor`: what this machine is like, and what to do about it.

JSON: an object of `level` ("ok", "warn" or "bad": the worst of all) and `facts`, a list of `name`, `value`,
`level`, `advice`. The exit code is 1 if something is bad.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pluto_dist.cli import options

if TYPE_CHECKING:
    from pluto_dist.cli.facts import Fact

BAD = 1
STYLES = {"ok": "green", "warn": "yellow", "bad": "bold red"}


def doctor(home: options.Home = None, folder: options.Dir = None, as_json: options.Json = False) -> None:
    """Reports places, their filesystems, sockets, namespaces and versions, with advice."""
    import os

    from pluto_dist.cli.console import print_json
    from pluto_dist.cli.facts import gather, worst
    from pluto_dist.host.settings import as_option, load

    facts = gather(load(os.environ, {"home": home, "dir": folder}, source=as_option))
    level = worst(facts)
    if as_json:
        print_json({"level": level, "facts": facts})
    else:
        _print(facts)
    if level == "bad":
        raise SystemExit(BAD)


def _value(fact: Fact) -> str:
    from pluto_dist.cli.console import printable

    if isinstance(fact.value, bool):
        return "yes" if fact.value else "no"
    return "unknown" if fact.value is None else printable(fact.value)


def _print(facts: tuple[Fact, ...]) -> None:
    from rich.text import Text

    from pluto_dist.cli.console import console, printable

    out = console()
    for fact in facts:
        out.print(Text(f"{fact.level:<5}", STYLES[fact.level]), f"{fact.name:<22}", _value(fact))
        if fact.advice:
            out.print(f"      → {printable(fact.advice)}")
    troubles = sum(fact.level != "ok" for fact in facts)
    out.print("\nall is well" if not troubles else f"\nworth a look: {troubles} of {len(facts)} facts")
