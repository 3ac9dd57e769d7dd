"""The command line: a command is a function, and its parameters are the command's arguments and options.

    def show(run: RunName, plot: Annotated[str | None, Option("--plot", help="A chart.")] = None) -> None:
        "Shows one Run."

`Argument` and `Option` in a parameter's annotation say what a person writes; its type says what may be
written: `str`, `int`, `float`, `Path`, an enumeration, `bool` for a flag, a list of these for several. Texts
of `--help` are the docstrings. Below are the options that several commands share.

It is as small as the commands need: their start is what a person waits for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from pluto_dist.errors import UsageError

WIDTH = 110
HELP = "--help"


class Option:
    """What a person writes behind its name.

    Args:
        names: `--limit`, `-n`; none for the parameter's own.
        help: what it is for.
        metavar: what stands for its value in `--help`.
        least, most: bounds of a number.
    """

    def __init__(
        self,
        *names: str,
        help: str,  # noqa: A002 # as everywhere
        metavar: str = "",
        least: float | None = None,
        most: float | None = None,
    ) -> None:
        self.names, self.help, self.metavar, self.least, self.most = names, help, metavar, least, most


class Argument(Option):
    """What a person writes without a name, by its place."""

    def __init__(self, *, help: str, metavar: str) -> None:  # noqa: A002
        super().__init__(help=help, metavar=metavar)


Home = Annotated[
    Path | None,
    Option("--home", help="Folder of runtime and spool; default PLUTO_DIST_HOME, else this node's own."),
]
Dir = Annotated[
    Path | None,
    Option("--dir", help="Parent of the store `.pluto`, or the store; default PLUTO_DIR, else here."),
]
Json = Annotated[bool, Option("--json", help="Print JSON for scripts.")]
RunName = Annotated[str, Argument(metavar="RUN", help="Id (7), display id (MMP-42), your own id, or key.")]


class Parameter(NamedTuple):
    """One parameter of a command.

    Attributes:
        name: of the function's.
        said: the annotation.
        names: of an option, () for an argument.
        kind: type of one value.
        many: it takes several.
        required: it has no default.
        default: its default.
    """

    name: str
    said: Option
    names: tuple[str, ...]
    kind: type
    many: bool
    required: bool
    default: Any

    @property
    def is_flag(self) -> bool:
        """It has no value."""
        return self.kind is bool

    @property
    def value_name(self) -> str:
        """What stands for its value, "" for a flag."""
        if self.is_flag or self.said.metavar:
            return self.said.metavar
        if issubclass(self.kind, Enum):
            return "|".join(str(each.value) for each in self.kind)
        return {int: "NUMBER", float: "NUMBER", Path: "PATH"}.get(self.kind, "TEXT")

    @property
    def shown(self) -> str:
        """As it is written: `--limit, -n NUMBER`."""
        return f"{', '.join(self.names)} {self.value_name}".strip()

    @property
    def shown_default(self) -> str:
        """Its default, for people; "" for none."""
        if self.default in (None, False, ""):
            return ""
        return str(self.default.value if isinstance(self.default, Enum) else self.default)

    def value_of(self, text: str) -> Any:
        """What a text means.

        Raises:
            UsageError: nothing; says what may be written.
        """
        try:
            value = self._read(text)
        except ValueError:
            raise UsageError(f"{self._called}: {text!r} is no {_WORDS[self.kind]}") from None
        least, most = self.said.least, self.said.most
        if (least is not None and not value >= least) or (most is not None and not value <= most):
            bounds = f"{least:g} or more" if most is None else f"from {least:g} to {most:g}"
            raise UsageError(f"{self._called}: {text!r} is out of bounds; it may be {bounds}")
        return value

    def _read(self, text: str) -> Any:
        if not issubclass(self.kind, Enum):
            make: Callable[[str], Any] = self.kind
            return make(text)
        for each in self.kind:
            if str(each.value).casefold() == text.casefold():
                return each
        raise UsageError(f"{self._called}: {text!r} is none of {', '.join(str(e.value) for e in self.kind)}")

    @property
    def _called(self) -> str:
        return self.names[0] if self.names else self.value_name


_WORDS: Mapping[type, str] = {int: "whole number", float: "number", str: "text", Path: "path"}


class Command:
    """A function as a command.

    Args:
        place: its module. word: how it is called; the function's name, with `-` for `_`. sentence: the first
        of its help, so that a list of commands loads none of them; "" for one that is read
            from the module.
        mixed: options may stand behind arguments.
    """

    def __init__(self, place: str, word: str, sentence: str = "", *, mixed: bool = True) -> None:
        self._place, self._word, self._sentence, self._mixed = place, word, sentence, mixed

    @property
    def function(self) -> Callable[..., None]:
        """The function; its module is loaded now."""
        found: Callable[..., None] = getattr(import_module(self._place), self._word.replace("-", "_"))
        return found

    @property
    def help(self) -> str:
        """What it does."""
        from inspect import getdoc

        return getdoc(self.function) or ""

    @property
    def sentence(self) -> str:
        """The first of its help, for a list."""
        return self._sentence or first_sentence(self.help)

    @property
    def parameters(self) -> list[Parameter]:
        """Its arguments and options."""
        return list(_parameters(self.function))

    def usage(self, called: str) -> str:
        """How it is called, in a line."""
        parameters = self.parameters
        words = [called]
        if any(each.names and not each.required for each in parameters):
            words.append("[OPTIONS]")
        for each in parameters:
            if each.names and each.required:
                words.append(each.shown)
            elif not each.names:
                name = f"{each.value_name}..." if each.many else each.value_name
                words.append(name if each.required else f"[{name}]")
        return " ".join(words)

    def run(self, words: Sequence[str], called: str) -> None:
        """Runs it, or says what it is for.

        Raises:
            UsageError: it is not called like that.
        """
        if HELP in words[: words.index("--") if "--" in words else None] and self._means_help(words):
            echo(f"Usage: {self.usage(called)}\n\n{_indented(self.help)}\n{self._described()}")
            return
        try:
            given = self.given(words)
        except UsageError as error:
            raise UsageError(f"{error.message}; see `{called} {HELP}`") from None
        self.function(**given)

    def given(self, words: Sequence[str]) -> dict[str, Any]:
        """The values of its parameters.

        Raises:
            UsageError: an option is not known, or a value is missing, wrong or too much.
        """
        parameters = self.parameters
        options = {name: each for each in parameters for name in each.names}
        found: dict[str, list[Any]] = {}
        places: list[str] = []
        left = list(words)
        while left:
            word = left.pop(0)
            if word == "--":
                places += left
                break
            if not word.startswith("-") or word == "-":
                places.append(word)
                if not self._mixed:
                    places += left
                    break
                continue
            _take_option(word, left, options, found)
        _take_places(places, [each for each in parameters if not each.names], found)
        for each in parameters:
            if each.required and each.name not in found:
                raise UsageError(f"{each.shown} is missing")
        return {
            each.name: found[each.name] if each.many else found[each.name][-1]
            for each in parameters
            if each.name in found
        }

    def _means_help(self, words: Sequence[str]) -> bool:
        """Whether --help is for this command, and not for one that it runs."""
        if self._mixed:
            return True
        first = next((at for at, word in enumerate(words) if not word.startswith("-")), len(words))
        return HELP in words[: first + 1]

    def _described(self) -> str:
        parameters = self.parameters
        arguments = [(each.value_name, _meaning(each)) for each in parameters if not each.names]
        options = [(each.shown, _meaning(each)) for each in parameters if each.names]
        return "".join(
            (
                _listed("Arguments", arguments) if arguments else "",
                _listed("Options", [*options, (HELP, "Show this message.")]),
            )
        )


class Group:
    """Commands under their words.

    Args:
        help: what they are for.
        commands: by word, in the order in which they are listed.
        version: what `--version` says, "" for no such option.
    """

    def __init__(
        self,
        help: str,  # noqa: A002
        commands: Mapping[str, Command | Group],
        version: str = "",
    ) -> None:
        self.help, self.commands, self._version = help, commands, version

    @property
    def sentence(self) -> str:
        """What they are for, for a list."""
        return first_sentence(self.help)

    def run(self, words: Sequence[str], called: str) -> None:
        """Runs the command that the words name, or lists them all.

        Raises:
            UsageError: there is no such command; a command's own.
            SystemExit: nothing was asked for.
        """
        word = words[0] if words else ""
        if word in self.commands:
            self.commands[word].run(words[1:], f"{called} {word}")
        elif word == "--version" and self._version:
            echo(self._version)
        elif word in ("", HELP):
            echo(self._described(called))
            if not word:
                raise SystemExit(2)
        else:
            kind = "option" if word.startswith("-") else "command"
            near = _near(word, self.commands)
            raise UsageError(f"there is no {kind} {word!r}{near}; `{called} {HELP}` lists them")

    def _described(self, called: str) -> str:
        version = [("--version", "Print the version.")] if self._version else []
        rows = [(word, command.sentence) for word, command in self.commands.items()]
        options = _listed("Options", [*version, (HELP, "Show this message.")])
        usage = f"Usage: {called} COMMAND [ARGUMENTS]"
        return f"{usage}\n\n{_indented(self.help)}\n{options}{_listed('Commands', rows)}"


def first_sentence(help: str) -> str:  # noqa: A002
    """The first paragraph of a help, in one line."""
    return help.partition("\n\n")[0].replace("\n", " ")


def echo(text: str = "", *, err: bool = False) -> None:
    """A line on stdout, or on stderr; at once, since others may follow it."""
    stream = sys.stderr if err else sys.stdout
    stream.write(f"{text}\n")
    stream.flush()


def _parameters(function: Callable[..., None]) -> Iterator[Parameter]:
    hints = get_type_hints(function, include_extras=True)
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    last = names[len(names) - len(function.__defaults__ or ()) :] if function.__defaults__ else ()
    defaults = dict(zip(last, function.__defaults__ or (), strict=True))
    for name in names:
        hint, said = get_args(hints[name])[:2]
        kinds = [each for each in get_args(hint) or (hint,) if each is not NoneType]
        many = get_origin(kinds[0]) is list or get_origin(hint) is list
        if get_origin(kinds[0]) is list:
            kinds = list(get_args(kinds[0]))
        is_argument = isinstance(said, Argument)
        own = () if is_argument else said.names or (f"--{name.replace('_', '-')}",)
        yield Parameter(name, said, own, kinds[0], many, name not in defaults, defaults.get(name))


def _take_option(
    word: str, left: list[str], options: Mapping[str, Parameter], found: dict[str, list[Any]]
) -> None:
    """Takes an option and its value; short ones may stand together, `-fn5`."""
    name, separator, value = word.partition("=")
    if not word.startswith("--"):
        name, separator, value = word[:2], "" if len(word) == 2 else "=", word[2:].removeprefix("=")
    each = options.get(name)
    if each is None:
        raise UsageError(f"there is no option {name!r}{_near(name, options)}")
    values = found.setdefault(each.name, [])
    if each.is_flag:
        if separator and word.startswith("--"):
            raise UsageError(f"{name} takes no value; it has {value!r}")
        values.append(True)
        if separator:
            _take_option(f"-{value}", left, options, found)
        return
    if not separator:
        if not left:
            raise UsageError(f"{each.shown}: its value is missing")
        value = left.pop(0)
    values.append(each.value_of(value))


def _take_places(places: Sequence[str], arguments: Sequence[Parameter], found: dict[str, list[Any]]) -> None:
    left = list(places)
    for each in arguments:
        taken, left = (left, []) if each.many else (left[:1], left[1:])
        if taken:
            found[each.name] = [each.value_of(word) for word in taken]
    if left:
        raise UsageError(f"{' '.join(map(repr, left))}: more than it takes")


def _near(word: str, known: Mapping[str, object]) -> str:
    from difflib import get_close_matches

    found = get_close_matches(word, known, 1)
    return f" (did you mean {found[0]}?)" if found else ""


def _meaning(each: Parameter) -> str:
    if each.required:
        return f"{each.said.help}  [required]"
    default = each.shown_default
    return f"{each.said.help}  [default: {default}]" if default else each.said.help


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


def _listed(title: str, rows: Sequence[tuple[str, str]]) -> str:
    from shutil import get_terminal_size
    from textwrap import wrap

    columns = min(WIDTH, get_terminal_size((WIDTH, 0)).columns)
    wide = min(32, max(len(name) for name, _ in rows)) + 4
    lines = [f"\n{title}:"]
    for name, meaning in rows:
        first, *rest = wrap(meaning, max(20, columns - wide)) or [""]
        head = f"  {name}".ljust(wide)
        lines += [head + first] if len(head) == wide else [head, " " * wide + first]
        lines += [" " * wide + line for line in rest]
    return "\n".join(lines) + "\n"
