"""The parts of the documents that are made from the code: settings, commands, entries, messages.

Such a part stands between two comments of a page, and `python -m tests.documents` writes it anew:

    <!-- generated: settings -->
    <!-- end of settings -->

A new part is one function below and its name in `PARTS`. `tests/test_documents.py` holds page and code equal.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

import pluto_dist
from pluto_dist import errors
from pluto_dist.cli import main
from pluto_dist.cli.options import Command, Group, Parameter
from pluto_dist.client import topics
from pluto_dist.core.rules import states
from pluto_dist.core.values import backend, document, lifecycle, messages
from pluto_dist.host import settings
from tests.documents.pages import CHECKOUT, anchor_of, read

_PART = re.compile(
    r"(?P<begin><!-- generated: (?P<name>[a-z-]+) -->\n).*?(?P<end><!-- end of (?P=name) -->)", re.DOTALL
)
SECTIONS = ("Args", "Attributes", "Raises", "Returns", "Yields")
LONGEST_CALL = 100

_NUMBER = re.compile(r"\b[RG][1-9][0-9]?\b")
_ATTRIBUTE = re.compile(r"^    (?P<names>\w+(?:, \w+)*): (?P<text>.*)$")


def settings_table() -> str:
    """Every setting: names, default, what is allowed, meaning."""
    meaning = attributes_of(settings.Settings)
    rows = [
        (
            f"`{key}`",
            " ".join(f"`{name}`" for name in settings.variables_of(key)[:1]),
            settings.default_of(key),
            settings.allowed_of(key),
            meaning[key],
        )
        for key in settings.settings_keys()
    ]
    return table(("name", "variable", "default", "allowed", "meaning"), rows)


def commands() -> str:
    """Every command with its arguments, options and what its module says of it."""
    return "\n".join(_commands_below(main.commands, "pluto-dist", 2))


def entries() -> str:
    """Entries of a lifecycle stream."""
    return _sections(flat([lifecycle.LifecycleEntry]))


def wire_messages() -> str:
    """Messages between a process and its coordinator."""
    return _sections(flat([messages.Request, messages.Reply]))


def document_keys() -> str:
    """Keys of a Run's document."""
    return _sections([document.Document], without=(document.Restore,))


def phases() -> str:
    """The phases of a Run and what moves it."""
    return _diagram(states.PHASES, start="opening")


def stages() -> str:
    """What is on disk of a Run's opening and of its ending."""
    return f"{_diagram(states.OPENING, start='asked')}\n\n{_diagram(states.ENDING, start='none')}"


def _diagram(moves: Mapping[tuple[str, str], str], start: str) -> str:
    """A table of moves as a picture; the text of it can be read as well."""
    lines = [f"    {before} --> {after}: {why.replace('`', '')}" for (before, after), why in moves.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", f"    [*] --> {start}", *lines, "```"])


def api() -> str:
    """Public names of the package, with what their docstrings say."""
    found = {name: getattr(pluto_dist, name) for name in pluto_dist.__all__ if name != "errors"}
    verbs = {name: kind for name, kind in found.items() if not inspect.isclass(kind)}
    classes = {name: kind for name, kind in found.items() if inspect.isclass(kind)}
    order = ("init", "attach", "log", "finish")
    sections = [
        _function(f"pluto_dist.{name}", verbs[name]) for name in (*order, *sorted({*verbs} - {*order}))
    ]
    sections.append(_class("pluto_dist.Run", classes.pop("Run"), members=True))
    sections += [_given(kind) for kind in (topics.Checkpoint, topics.Item, topics.Subscription)]
    sections += [_class(f"pluto_dist.{name}", kind) for name, kind in classes.items()]
    return "\n".join(sections)


def error_tree() -> str:
    """Every error, what it is and what else it is."""
    tree = re.search(r"(?:^    .*\n?)+", inspect.cleandoc(errors.__doc__ or ""), re.MULTILINE)
    kinds = [
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, errors.PlutoDistError)
    ]
    rows = [
        (
            f"`{kind.__name__}`",
            ", ".join(f"`{base.__name__}`" for base in kind.__bases__ if base is not Exception),
            _first_paragraph(kind),
        )
        for kind in kinds
    ]
    shown = textwrap.dedent(tree[0]).rstrip() if tree is not None else ""
    return f"```text\n{shown}\n```\n\n{table(('error', 'is also', 'when'), rows)}"


PARTS: dict[str, Callable[[], str]] = {
    "api": api,
    "errors": error_tree,
    "settings": settings_table,
    "commands": commands,
    "entries": entries,
    "messages": wire_messages,
    "document": document_keys,
    "phases": phases,
    "stages": stages,
}


def renewed(text: str) -> str:
    """A page with its generated parts as the code has them now.

    Raises:
        KeyError: a part is not known.
    """
    return _PART.sub(
        lambda part: f"{part['begin']}\n{linked(PARTS[part['name']]()).strip()}\n\n{part['end']}", text
    )


def linked(text: str) -> str:
    """Rules and guarantees become links; the pages with generated parts are in `docs/`."""
    return _NUMBER.sub(lambda found: f"[{found[0]}]({_headings()[found[0]]})", text)


@cache
def _headings() -> dict[str, str]:
    """`R3` -> where its heading is."""
    return {
        title.partition(".")[0]: f"{name}#{anchor_of(title)}"
        for name in ("rules.md", "guarantees.md")
        for title in read(CHECKOUT / "docs" / name).titles
        if _NUMBER.match(title)
    }


def parts_of(text: str) -> list[str]:
    """Names of the generated parts of a page."""
    return [part["name"] for part in _PART.finditer(text)]


def write() -> None:
    """Writes all pages anew whose parts have changed."""
    for path in (*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md")):
        before = path.read_text(encoding="utf-8")
        after = renewed(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(path.relative_to(CHECKOUT))


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    lines = [tuple(head)]
    lines += [("---",) * len(lines[0]), *(tuple(row) for row in rows)]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines) + "\n"


def _cell(text: str) -> str:
    """A bar would end the cell; `<pid>` outside of code would be HTML."""
    parts = text.replace("|", r"\|").split("`")
    return "`".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts))


def attributes_of(kind: type[object]) -> dict[str, str]:
    """What the docstring says of each field, those of its bases too; names on one line share its text."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        found |= _own_attributes(base)
    return {name: text.rstrip(".") for name, text in found.items()}


def _own_attributes(kind: type[object]) -> dict[str, str]:
    found: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in inspect.cleandoc(kind.__doc__ or "").splitlines():
        if not line.startswith("    "):
            inside = line.strip() == "Attributes:" or (inside and not line.strip())
        elif inside and (match := _ATTRIBUTE.match(line)) is not None:
            names = match["names"].split(", ")
            found.update(dict.fromkeys(names, match["text"]))
        elif inside:
            for name in names:
                found[name] += " " + line.strip()
    return found


def flat(kinds: Iterable[Any]) -> Iterator[type[msgspec.Struct]]:
    """Members of unions, also of unions of unions."""
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield kind
        else:
            yield from flat(get_args(kind))


def type_name(kind: Any) -> str:
    """A type for people, without the limits that its numbers have."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is msgspec.Raw:
        return "JSON"
    if origin is None:
        return "null" if kind is type(None) else getattr(kind, "__name__", str(kind))
    if origin is Annotated:
        return type_name(inner[0])
    if inner == get_args(backend.Status):
        return "Status"
    if origin is Literal:
        return " or ".join(repr(each) for each in inner)
    if origin in (Union, UnionType):
        return " or ".join(type_name(each) for each in inner)
    names = ", ".join("…" if each is Ellipsis else type_name(each) for each in inner)
    return f"{origin.__name__}[{names}]"


def structs_in(kind: Any) -> Iterator[type[msgspec.Struct]]:
    """Structs that a type mentions."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
    for inner in get_args(kind):
        yield from structs_in(inner)


def _sections(kinds: Iterable[type[msgspec.Struct]], without: tuple[type, ...] = ()) -> str:
    """A table for each struct, and behind them for those that they mention."""
    found = dict.fromkeys(kinds)
    asked = len(found)
    for kind in (todo := list(found)):
        for field in msgspec.structs.fields(kind):
            new = [each for each in structs_in(field.type) if each not in found and each not in without]
            found.update(dict.fromkeys(new))
            todo.extend(new)  # the loop goes on with them
    return "\n".join(_section(kind, tagged=number < asked) for number, kind in enumerate(found))


def _section(kind: type[msgspec.Struct], *, tagged: bool) -> str:
    first = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    tag = kind.__struct_config__.tag if tagged else None
    return f"**`{tag or kind.__name__}`** {first}\n\n{_fields(kind)}"


def _fields(kind: type[msgspec.Struct]) -> str:
    meaning = attributes_of(kind)
    if not meaning:
        named = (f"`{field.encode_name}` ({type_name(field.type)})" for field in msgspec.structs.fields(kind))
        return f"Fields: {', '.join(named)}.\n" if msgspec.structs.fields(kind) else ""
    rows = [
        (f"`{field.encode_name}`", f"`{type_name(field.type)}`", _default(field), meaning.get(field.name, ""))
        for field in msgspec.structs.fields(kind)
    ]
    return table(("field", "type", "default", "meaning"), rows) if rows else ""


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    shown = bytes(value).decode() if isinstance(value, msgspec.Raw) else repr(value)
    return f"`{shown}`"


def _first_paragraph(thing: object) -> str:
    return inspect.cleandoc(thing.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def _function(name: str, function: Any, depth: int = 2) -> str:
    signature = inspect.signature(function)
    shown = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    plain = signature.replace(parameters=shown, return_annotation=inspect.Signature.empty)
    call = f"{name}{plain}"
    if len(call) > LONGEST_CALL:
        call = f"{name}(\n    " + ",\n    ".join(_kinds(shown)) + ",\n)"
    return f"{'#' * depth} `{name}`\n\n```text\n{call}\n```\n\n{docstring(function.__doc__ or '')}"


def _kinds(parameters: list[inspect.Parameter]) -> Iterator[str]:
    """Parameters with the star before the first that is given by keyword."""
    starred = False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            starred = True
            yield "*"
        starred = starred or parameter.kind is parameter.VAR_POSITIONAL
        yield str(parameter)


def _class(name: str, kind: Any, *, members: bool = False) -> str:
    text = (
        [_function(name, kind.__init__).partition("```\n\n")[0] + "```\n"]
        if not members
        else [f"## `{name}`\n"]
    )
    text.append(docstring(kind.__doc__ or ""))
    if members:
        shown = {each: inspect.getattr_static(kind, each) for each in dir(kind) if not each.startswith("_")}
        methods = {each: found for each, found in shown.items() if inspect.isfunction(found)}
        facts = {each: found for each, found in shown.items() if isinstance(found, property)}
        rows = [(f"`run.{each}`", _first_paragraph(found)) for each, found in facts.items()]
        text.append(table(("property", "meaning"), rows))
        text += [_function(f"run.{each}", found, 3) for each, found in methods.items()]
    return "\n".join(text)


def _given(kind: Any) -> str:
    """A class whose objects users get and never make."""
    own = {each: found for each, found in vars(kind).items() if not each.startswith("_")}
    methods = (_function(f"{kind.__name__.lower()}.{each}", found, 3) for each, found in own.items())
    return "\n".join([f"## `{kind.__name__}`\n", docstring(kind.__doc__ or ""), *methods])


def docstring(text: str) -> str:
    """A docstring as Markdown: its sections become lists, what is indented beside them a block."""
    found: list[str] = []
    section, inside = "", False
    for line in inspect.cleandoc(text).splitlines():
        if line.rstrip(":") in SECTIONS and line.endswith(":"):
            section, inside = line, False
            found += [f"**{line.rstrip(':')}**", ""]
        elif section and line.startswith("        "):
            found[-1] += " " + line.strip()
        elif section and line.startswith("    "):
            name, colon, rest = line.strip().partition(": ")
            found.append(f"- `{name}`: {rest}" if colon else f"- {line.strip()}")
        elif line.startswith("    "):
            if not inside:
                found.append("```text")
            inside = True
            found.append(line[4:])
        else:
            if inside:
                found[-1:] = ["```", ""] if not found[-1] else [found[-1], "```"]
            section, inside = "", False
            found.append(line)
    if inside:
        found.append("```")
    return "\n".join(found).strip() + "\n"


def _commands_below(group: Group, name: str, depth: int) -> Iterator[str]:
    for word, command in group.commands.items():
        title = f"{name} {word}"
        yield f"{'#' * depth} `{title}`\n"
        if isinstance(command, Group):
            first = next(each for each in command.commands.values() if isinstance(each, Command))
            yield f"{command.help}\n\n{prose_of(_module_of(first))}"
            yield from _commands_below(command, title, depth + 1)
            continue
        yield f"{command.help}\n\n```text\n{command.usage(title)}\n```\n"
        yield table(("argument or option", "default", "meaning"), map(_row, command.parameters))
        if depth == 2:  # what a group's module says stands above
            yield prose_of(_module_of(command))


def _module_of(command: Command) -> Any:
    return sys.modules[command.function.__module__]


def _row(parameter: Parameter) -> tuple[str, str, str]:
    default = parameter.shown_default
    shown = "required" if parameter.required else f"`{default}`" if default else ""
    return (f"`{parameter.shown}`", shown, parameter.said.help)


def prose_of(module: Any) -> str:
    """A module's docstring as Markdown, without its first paragraph; what is indented becomes a block."""
    text = inspect.cleandoc(module.__doc__ or "").partition("\n\n")[2]
    parts = re.split(r"((?:^    .*\n?)+)", text, flags=re.MULTILINE)
    return (
        "".join(
            f"\n```text\n{textwrap.dedent(part).rstrip()}\n```\n\n" if number % 2 else part
            for number, part in enumerate(parts)
        ).strip("\n")
        + "\n"
    )
