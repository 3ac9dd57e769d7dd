"""The command line: a command is a function, and its parameters are the command's arguments and options.

    def show(run: RunName, plot: Annotated[str | None, Option("--plot", help="A chart.")] = None) -> None:
        "Shows one Run."

`Argument` and `Option` in a parameter's annotation say what a person writes; its type says what may be
written: `str`, `int`, `float`, `Path`, an enumeration, `bool` for a flag, a list of these for several. Texts
of `--help` are the docstrings. Below are the options that several commands share.

The words are read by argparse, which is there at once: the start of a command is what a person waits for.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

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

    def read(self, text: str) -> Any:
        """What a text means.

        Raises:
            argparse.ArgumentTypeError: nothing; says what may be written.
        """
        value = self._value(text)
        least, most = self.said.least, self.said.most
        if (least is not None and not value >= least) or (most is not None and not value <= most):
            bounds = f"{least:g} or more" if most is None else f"from {least:g} to {most:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is out of bounds; it may be {bounds}")
        return value

    def _value(self, text: str) -> Any:
        if issubclass(self.kind, Enum):
            for each in self.kind:
                if str(each.value).casefold() == text.casefold():
                    return each
            allowed = ", ".join(str(each.value) for each in self.kind)
            raise argparse.ArgumentTypeError(f"{text!r} is none of {allowed}")
        make: Callable[[str], Any] = self.kind
        try:
            return make(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no {_WORDS[self.kind]}") from None


_WORDS: Mapping[type, str] = {int: "whole number", float: "number", str: "text", Path: "path"}


class Command:
    """A function as a command.

    Args:
        place: its module.
        word: how it is called; the function's name, with `-` for `_`.
        mixed: options may stand behind arguments; else all that follows the first one belongs to it.
    """

    def __init__(self, place: str, word: str, *, mixed: bool = True) -> None:
        self._place, self._word, self._mixed = place, word, mixed

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
            SystemExit: --help was asked for.
        """
        self.function(**self.given(words, called))

    def given(self, words: Sequence[str], called: str = "") -> dict[str, Any]:
        """The values of those of its parameters that the words name.

        Raises:
            UsageError: an option is not known, or a value is missing, wrong or too much.
            SystemExit: --help was asked for.
        """
        parser = _Parser(called, usage=self.usage(called), description=self.help)
        for each in self.parameters:
            self._add(each, parser)
        lists = self._mixed and any(each.many and not each.names for each in self.parameters)
        read = parser.parse_intermixed_args if lists else parser.parse_args
        found = vars(read(words))
        if not self._mixed:
            (rest,) = (each for each in self.parameters if not each.names)
            found[rest.name] = found[rest.name][found[rest.name][:1] == ["--"] :]
            if not found[rest.name]:
                parser.error(f"{rest.value_name} is missing")
        return found

    def _add(self, each: Parameter, parser: argparse.ArgumentParser) -> None:
        more: dict[str, Any] = {} if each.is_flag else {"type": each.read, "metavar": each.value_name}
        if each.names:
            action = "store_true" if each.is_flag else "append" if each.many else "store"
            names, more = each.names, {**more, "dest": each.name, "action": action, "required": each.required}
        else:
            many, one = ("+", None) if each.required else ("*", "?")
            names, more["nargs"] = (
                (each.name,),
                (many if each.many else one) if self._mixed else argparse.REMAINDER,
            )
        parser.add_argument(*names, help=_meaning(each).replace("%", "%%"), default=argparse.SUPPRESS, **more)


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

    def run(self, words: Sequence[str], called: str) -> None:
        """Runs the command that the words name, or lists them all.

        Raises:
            UsageError: there is no such command; a command's own.
            SystemExit: nothing was asked for, or --help or --version.
        """
        word = words[0] if words else ""
        if word in self.commands:
            self.commands[word].run(words[1:], f"{called} {word}")
            return
        if word and not word.startswith("-"):
            near = _near(word, self.commands)
            raise UsageError(f"there is no command {word!r}{near}; `{called} {HELP}` lists them")
        parser = self._parser(called)
        parser.parse_args(words[:1])
        parser.print_help()
        raise SystemExit(2)

    def _parser(self, called: str) -> argparse.ArgumentParser:
        parser = _Parser(called, usage=f"{called} COMMAND [ARGUMENTS]", description=self.help)
        if self._version:
            parser.add_argument(
                "--version", action="version", version=self._version, help="Print the version."
            )
        listed = parser.add_subparsers(title="commands", metavar="")
        for word, command in self.commands.items():
            first = command.help.partition("\n\n")[0].replace("\n", " ")
            listed.add_parser(word, help=first.replace("%", "%%"))
        return parser


class _Parser(argparse.ArgumentParser):
    """argparse with our errors: one line, raised."""

    def __init__(self, called: str = "", **more: Any) -> None:
        called = called or str(more.pop("prog", ""))
        super().__init__(called, formatter_class=_Help, allow_abbrev=False, add_help=False, **more)
        self.add_argument(HELP, action="help", help="Show this message.")

    def error(self, message: str) -> NoReturn:
        """Raises a UsageError that says where to look."""
        raise UsageError(f"{message}; see `{self.prog} {HELP}`")


class _Help(argparse.RawDescriptionHelpFormatter):
    """As wide as the terminal, but not wider than people read."""

    def __init__(self, prog: str) -> None:
        from shutil import get_terminal_size

        width = min(WIDTH, get_terminal_size((WIDTH, 0)).columns)
        super().__init__(prog, max_help_position=32, width=width)


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


def _near(word: str, known: Mapping[str, object]) -> str:
    from difflib import get_close_matches

    found = get_close_matches(word, known, 1)
    return f" (did you mean {found[0]}?)" if found else ""


def _meaning(each: Parameter) -> str:
    if each.required:
        return f"{each.said.help}  [required]"
    default = each.shown_default
    return f"{each.said.help}  [default: {default}]" if default else each.said.help
