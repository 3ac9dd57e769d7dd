"""Records of one process, on their way from `log()` into its spool; the hot path.

**Encoded** as the request lines that the server wants. Numbers become one metrics line; strings, histograms
and tables one data line each; files go to `FileLog`. Nested dicts are flattened with `/`. A fault in the call
itself (key, step, timestamp) raises at once. A value that cannot be logged is left out and returned as a
rejection, with advice: its neighbours are logged, training goes on.

The usual record, numbers under names, is recognised by `numbers_in` and encoded in one go. What its checks do
not take is sorted value by value by a `Collector`, which says what is wrong with it; so they may refuse
anything, and must not take what the long way would write differently.

**Written** with step and time by `PointLog`; a name that is new is declared before it (R7). A file is kept in
the lease's folder first, then named by a line of the files stream. When `log()` has returned, the end of the
process changes nothing about what is delivered (G3). What a later change of the user's file does is in the
table of `spool.blobs`.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeGuard

import msgspec

from pluto_dist.client.lease_files import LeaseFiles, Wall
from pluto_dist.client.media.base import DataValue, Media
from pluto_dist.client.notices import WarnOnce
from pluto_dist.client.values import NotAScalarError, Scalar, clean_text, first_line, scalar_of, shown
from pluto_dist.core.rules.shipment import PUT_LIMIT, Shard, shard_of
from pluto_dist.core.values.backend import LogType
from pluto_dist.core.values.ids import MAX_STEP, Job
from pluto_dist.errors import InvalidRecordError
from pluto_dist.spool.blobs import Blob, NoRoomError
from pluto_dist.spool.file_lines import FileLine, Part, encode_line
from pluto_dist.spool.frames import DECLARE
from pluto_dist.spool.sources import NoSourceError, found_in, is_many
from pluto_dist.spool.writer import follow_forks

STRING = "string-series"
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1  # what the server's JSON reader holds as an integer
MILLISECONDS_FROM = 1e11  # as seconds this is the year 5138, as milliseconds March 1973

_to_json = msgspec.json.Encoder().encode

_PLAIN = frozenset({float, int})
_DEEP = 8  # dicts inside dicts; deeper ones go the long way


class Encoded(msgspec.Struct, frozen=True):
    """Request lines of one `log()` call, each with its newline.

    Attributes:
        metrics: the metrics line, None if there are no numbers.
        data: one line per string, histogram and table.
        files: to be kept before their lines can be written.
        new: names that are not in `known`; declare them before these lines are written.
        rejections: values that were left out, with advice.
    """

    metrics: bytes | None = None
    data: tuple[bytes, ...] = ()
    files: tuple[Attached, ...] = ()
    new: dict[str, LogType] = {}
    rejections: tuple[Rejection, ...] = ()


def encode(
    data: Mapping[str, object], step: int, time_ms: int, known: set[str], *, strict: bool = False
) -> Encoded:
    """Turns one record into request lines.

    Args:
        data: names and values; dicts inside are flattened with `/`.
        step: a non-negative integer; numpy's and torch's are taken, and floats without a fraction.
        time_ms: epoch milliseconds, from the clock or from `epoch_ms`.
        known: names that were declared already; not changed here, since a declaration counts only when it
            is written.
        strict: raise where a value would be left out.

    Raises:
        InvalidRecordError: data is no dict, a key is no text, the step is none; with `strict` also a value
            that cannot be logged, or one under a blank name.
    """
    if type(step) is not int or not 0 <= step <= MAX_STEP:
        step = checked_step(step)
    if type(data) is dict and (found := numbers_in(data.copy())):
        new = declared_first(found, known)
        if new is not None and (line := line_of(found, step, time_ms)) is not None:
            return Encoded(line, new=new)
    return _encode_any(data, step, time_ms, known, strict=strict)


def encode_known(data: object, step: int, time_ms: int, known: set[str]) -> bytes | None:
    """The line of a flat record of floats and integers, all declared; None for all other records."""
    if type(data) is dict:
        snapshot = data.copy()  # another thread may change the dict between check and encoding
        if known.issuperset(snapshot):
            return line_of(snapshot, step, time_ms)
    return None


def declaration(names: Mapping[str, LogType]) -> bytes:
    """The line that declares names before their first use (R7)."""
    return _to_json({"declare": names}) + b"\n"


def epoch_ms(timestamp: object) -> int:
    """Epoch milliseconds of a timestamp in epoch seconds, as `time.time()` gives them.

    Raises:
        InvalidRecordError: not a number, negative, not finite, or obviously milliseconds.
    """
    seconds = _scalar_argument("timestamp", timestamp)
    if isinstance(seconds, bool | str) or not (seconds >= 0 and seconds < math.inf):
        raise InvalidRecordError(
            f"timestamp is {shown(timestamp)}; pass seconds since 1970 as time.time() gives them "
            "(datetime: its .timestamp()), or leave it out for now"
        )
    if seconds >= MILLISECONDS_FROM:
        raise InvalidRecordError(
            f"timestamp is {shown(timestamp)}, which looks like milliseconds or finer; it is given in "
            f"seconds and must be below {MILLISECONDS_FROM:.0f}; pass timestamp / 1000"
        )
    return round(seconds * 1000)


def _encode_any(
    data: Mapping[str, object], step: int, time_ms: int, known: set[str], *, strict: bool
) -> Encoded:
    if not is_mapping(data):
        raise InvalidRecordError(
            f"log() was given {shown(data)}; pass a dict of names and values, e.g. {{'loss': 0.1}}"
        )
    collector = Collector()
    try:
        collector.take_all(data)
    except NotAScalarError as error:
        raise InvalidRecordError(f"log() was given {shown(data)}: {error}; pass a plain dict") from error
    if strict and collector.rejections:
        raise InvalidRecordError("; ".join(map(str, collector.rejections)))
    return Encoded(
        metrics=_metrics_line(collector.numbers, step, time_ms),
        data=(
            *(_data_line(name, text, STRING, step, time_ms) for name, text in collector.texts.items()),
            *(
                _data_line(name, value.payload, value.data_type, step, time_ms)
                for name, value in collector.values.items()
            ),
        ),
        files=tuple(collector.files),
        new={name: kind for name, kind in collector.kinds().items() if name not in known},
        rejections=tuple(collector.rejections),
    )


def _metrics_line(numbers: dict[str, Number], step: int, time_ms: int) -> bytes | None:
    if not numbers:
        return None
    return _to_json({"time": time_ms, "step": step, "data": numbers}) + b"\n"


def _data_line(name: str, text: str, data_type: str, step: int, time_ms: int) -> bytes:
    line = {"time": time_ms, "data": text, "dataType": data_type, "logName": name, "step": step}
    return _to_json(line) + b"\n"


def checked_step(step: object) -> int:
    """A step in its exact type.

    Raises:
        InvalidRecordError: it is none.
    """
    number = _scalar_argument("step", step)
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int):
        raise InvalidRecordError(f"step is {shown(step)}; pass a whole number from 0 on")
    if not 0 <= number <= MAX_STEP:
        raise InvalidRecordError(f"step is {shown(number)}; steps go from 0 to {MAX_STEP}")
    return number


def _scalar_argument(argument: str, value: object) -> Scalar:
    try:
        plain = scalar_of(value)
    except NotAScalarError as error:
        raise InvalidRecordError(f"{argument} is {shown(value)}: {error}") from error
    if plain is None:
        raise InvalidRecordError(f"{argument} is {shown(value)}; pass a number")
    return plain


MAX_DEPTH = 32  # dicts inside dicts
MAX_DICTS = 10_000  # per record; shared dicts would multiply without a bound

Number = int | float | msgspec.Raw

_NAN, _INFINITY, _MINUS_INFINITY = (
    msgspec.Raw(token) for token in (b"NaN", b"Infinity", b"-Infinity")
)  # the bare tokens that the server takes; msgspec alone writes null


class Rejection(msgspec.Struct, frozen=True):
    """A value that was left out of a record.

    Attributes:
        name: the full name it was given under.
        type_name: class of the value.
        advice: what is wrong with it and what to do.
    """

    name: str
    type_name: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what}: {self.advice}"

    @property
    def what(self) -> str:
        """Which value it was."""
        return f"{shown(self.name)} ({self.type_name})"


class Attached(msgspec.Struct, frozen=True):
    """A file under its full name; `sample_index` is its place in a list, `shard` what it is a share of."""

    name: str
    media: Media
    sample_index: int = 0
    shard: Shard | None = None


class Collector:
    """Takes a record apart, into its attributes.

    Attributes:
        numbers: metric values by full name, ready for the encoder.
        texts: strings by full name.
        values: histograms and tables by full name.
        files: in the order in which they are given.
        rejections: values that were left out.
    """

    __slots__ = ("_dicts", "files", "numbers", "rejections", "texts", "values")

    def __init__(self) -> None:
        self.numbers: dict[str, Number] = {}
        self.texts: dict[str, str] = {}
        self.values: dict[str, DataValue] = {}
        self.files: list[Attached] = []
        self.rejections: list[Rejection] = []
        self._dicts = 0

    def kinds(self) -> dict[str, LogType]:
        """The type to declare for each name; one with values of several types counts as a metric first."""
        files: dict[str, LogType] = {file.name: file.media.log_type for file in self.files}
        values: dict[str, LogType] = {name: value.log_type for name, value in self.values.items()}
        texts: dict[str, LogType] = dict.fromkeys(self.texts, "DATA")
        return {**files, **values, **texts, **dict.fromkeys(self.numbers, "METRIC")}

    def take_all(
        self, data: Mapping[str, object], prefix: str = "", above: tuple[Mapping[str, object], ...] = ()
    ) -> None:
        """Takes every value of a dict and of the dicts in it.

        Raises:
            InvalidRecordError: a key is no text.
            NotAScalarError: the dict cannot be read.
        """
        self._dicts += 1
        for key, value in _pairs_of(data):
            name = prefix + _checked_key(key, prefix)
            if not name[len(prefix) :].strip():  # the server would refuse the whole request
                self._reject(name, value, "its name is blank; give it one")
            elif type(value) is float:
                self._take_number(name, value)
            else:
                self._take(name, value, (*above, data))

    def _take(self, name: str, value: object, above: tuple[Mapping[str, object], ...]) -> None:
        try:
            plain = scalar_of(value)
            if isinstance(plain, str):
                self._take_text(name, plain)
            elif plain is not None:
                self._take_number(name, plain)
            elif is_mapping(value):
                self._take_dict(name, value, above)
            elif isinstance(value, Media):
                self._take_file(name, value)
            elif isinstance(value, DataValue):
                self._take_value(name, value)
            elif _is_list_of_files(value):
                for index, file in enumerate(value):
                    self._take_file(name, file, index)
            else:
                self._reject(name, value, _advice(value))
        except NotAScalarError as error:
            self._reject(name, value, str(error))

    def _take_text(self, name: str, text: str) -> None:
        if name in self.texts:
            self._reject(name, text, "the record gives this name twice; the last value is kept")
        self.texts[name] = clean_text(text)

    def _take_number(self, name: str, number: float) -> None:
        if name in self.numbers:
            self._reject(name, number, "the record gives this name twice; the last value is kept")
        self.numbers[name] = _wire_number(number)

    def _take_value(self, name: str, value: DataValue) -> None:
        if value.problem:
            self._reject(name, value, value.problem)
        else:
            self.values[name] = value

    def _take_file(self, name: str, media: Media, sample_index: int = 0) -> None:
        if media.problem:
            self._reject(name, media, media.problem)
        else:
            self.files.append(Attached(name, media, sample_index))

    def _take_dict(
        self, name: str, value: Mapping[str, object], above: tuple[Mapping[str, object], ...]
    ) -> None:
        if any(value is outer for outer in above):
            self._reject(name, value, "it contains itself; log the values that are meant")
        elif len(above) > MAX_DEPTH:
            self._reject(name, value, f"dicts are nested deeper than {MAX_DEPTH}; flatten them")
        elif self._dicts >= MAX_DICTS:
            self._reject(name, value, f"the record has more than {MAX_DICTS} dicts; log fewer at once")
        else:
            self.take_all(value, name + "/", above)

    def _reject(self, name: str, value: object, advice: str) -> None:
        self.rejections.append(Rejection(name, type(value).__name__, advice))


def _is_list_of_files(value: object) -> TypeGuard[list[Media]]:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(each, Media) for each in value)


def is_mapping(value: object) -> TypeGuard[Mapping[str, object]]:
    """Whether its class is a mapping; the object itself may claim anything, or raise."""
    return issubclass(type(value), Mapping)


def _pairs_of(data: Mapping[str, object]) -> list[tuple[str, object]]:
    try:
        found = tuple(data.items())  # at once: another thread may change the dict
        return [(key, value) for key, value in found]  # it has to be pairs
    except Exception as error:  # code of others
        raise NotAScalarError(f"reading it raised {type(error).__name__}: {first_line(error)}") from error


def _checked_key(key: object, prefix: str) -> str:
    if not isinstance(key, str):
        raise InvalidRecordError(
            f"the record has the key {shown(key)}{_below(prefix)}; names are texts: pass str(key)"
        )
    return clean_text(key)


def _below(prefix: str) -> str:
    return f" under {shown(prefix)}" if prefix else ""


def _wire_number(number: float) -> Number:
    if isinstance(number, int):
        number = int(number)  # True and False are 1 and 0
        if MIN_INTEGER <= number <= MAX_INTEGER:
            return number
        try:
            return float(number)
        except OverflowError:
            raise NotAScalarError(f"{shown(number)} is beyond a 64-bit float; log its logarithm") from None
    if math.isfinite(number):
        return number
    if math.isnan(number):
        return _NAN
    return _INFINITY if number > 0 else _MINUS_INFINITY


def _advice(value: object) -> str:
    if value is None:
        return "there is no value; leave the key out, or log float('nan') for a gap"
    if isinstance(value, complex):
        return "complex numbers have no place in a chart; log .real and .imag"
    if isinstance(value, list | tuple | set | frozenset):
        return "only single values and lists of files are logged; log its mean, or a name for each element"
    return (
        "only numbers, bools, texts, dicts of them and pluto_dist's File, Image and the like are logged; log "
        "float(value), str(value), or the file that holds it"
    )


def line_of(data: Mapping[str, Any], step: int, time_ms: int) -> bytes | None:
    """The line of floats and integers under names that were declared before; a few checks that run in C.

    Returns:
        None if it has to go the long way. The caller has seen to it that nobody changes `data`.
    """
    values = data.values()
    kinds = set(map(type, values))
    if not kinds or not kinds <= _PLAIN:
        return None
    try:
        # msgspec writes null for NaN and infinities; a sum shows them. A sum that overflows by itself only
        # costs the long way.
        if not math.isfinite(sum(values)):
            return None
        if int in kinds and not (min(values) >= MIN_INTEGER and max(values) <= MAX_INTEGER):
            return None
        return b'{"time":%d,"step":%d,"data":%b}\n' % (time_ms, step, _to_json(data))
    except (OverflowError, TypeError):  # an integer beyond a float; a key that only equals a text
        return None


def numbers_in(data: Mapping[Any, Any]) -> dict[str, float] | None:
    """All numbers of a record under their full names: nested dicts, numpy's scalars, tensors of one element.

    Returns:
        None if there is anything else, which the long way has to look at.
    """
    numbers: dict[str, float] = {}
    try:
        return numbers if _gather(data, "", numbers, _DEEP) else None
    except Exception:  # noqa: BLE001 # code of others, e.g. item() of a tensor of several elements
        return None


def declared_first(names: Iterable[str], known: Collection[str]) -> dict[str, LogType] | None:
    """The names that are new; None if one of them has to be looked at, because it may not be written so."""
    new = [name for name in names if name not in known]
    fit = all(name.isascii() and "\0" not in name and name.rpartition("/")[2].strip() for name in new)
    return dict.fromkeys(new, "METRIC") if fit else None


def _gather(data: Mapping[Any, Any], prefix: str, numbers: dict[str, float], deep: int) -> bool:
    for key, value in data.items():
        if type(key) is not str:
            return False
        name, kind = prefix + key if prefix else key, type(value)
        if kind is dict:
            if not deep or not key.strip() or not _gather(value.copy(), name + "/", numbers, deep - 1):
                return False
            continue
        number = value if kind in _PLAIN else _number_of(value, kind)
        if number is None or name in numbers:  # once nested and once not
            return False
        numbers[name] = number
    return True


def _number_of(value: Any, kind: Any) -> float | None:
    """Reads a foreign scalar, once: a tensor may have to come from its device."""
    item = getattr(kind, "item", None)
    number = value if item is None else item(value)
    if type(number) in _PLAIN:
        return number  # type: ignore[no-any-return] # float or int
    return int(number) if type(number) is bool else None


REJECT_LIMIT = 300  # characters


class PointLog:
    """Writes records; any thread and any signal handler may call it.

    Attributes:
        highest: the highest step so far, -1 before the first.
        rejected: keys that were left out because their value cannot be logged.
        first_reject: the first of them, with its reason.
        attachments: files, and how many were dropped.
        job: of which rank the artifacts are that all ranks give together.
    """

    job = Job(key="")

    def __init__(self, files: LeaseFiles, wall: Wall, warn: WarnOnce, *, strict: bool) -> None:
        self._files = files
        self._wall = wall
        self._warn = warn
        self._strict = strict
        self._known: set[str] = set()
        self._types: dict[str, LogType] = {}
        self._steps = itertools.count(0)
        self.highest = -1
        self.rejected = 0
        self.first_reject = ""
        self.attachments = FileLog(files, warn)
        follow_forks(self)

    def log(self, data: Mapping[str, Any], step: int | None, timestamp: float | None) -> None:
        """See `Run.log`."""
        automatic = step is None
        if step is None:
            step = next(self._steps)
        time_ms = self._wall.ms() if timestamp is None else self._time_of(timestamp)
        if type(step) is int and 0 <= step <= MAX_STEP:
            line = encode_known(data, step, time_ms, self._known)
            if line is not None:
                if step > self.highest:
                    self.highest = step
                    if not automatic:
                        self._steps = itertools.count(step + 1)
                self._files.metrics.append(line)
                return
        encoded = encode(data, step, time_ms, self._known, strict=self._strict)
        if step > self.highest:
            self._follow(step, automatic=automatic)
        if any(file.media.shards for file in encoded.files):
            encoded = self._sharded(encoded)
        if encoded.new:
            self._declare(encoded.new)
        if encoded.metrics is not None:
            self._files.metrics.append(encoded.metrics)
        for line in encoded.data:
            self._files.data.append(line)
        if encoded.files:
            self._attach(encoded.files, int(step), time_ms)
        if encoded.rejections:
            self._reject(encoded.rejections)

    def check_commit(self, commit: object) -> None:
        """Warns once of `commit=False`: the official client takes this argument and ignores it, as we do."""
        if isinstance(commit, bool):
            if not commit:
                self._warn(
                    "commit",
                    "log(commit=False) has no effect, as with the official client: every call without step= "
                    "is a step of its own; pass the same step= to calls that belong together",
                )
        else:
            self._warn(
                "commit",
                f"log() was given commit={shown(commit)}, which has no effect: the third argument is commit; "
                "a time is passed as timestamp=",
            )

    def start_at(self, step: int) -> None:
        """The first automatic step, unless this process has logged beyond it already."""
        if step > self.highest + 1:
            self.highest = step - 1
            self._steps = itertools.count(step)

    def after_fork(self) -> None:
        """In a forked child: its chain declares names of its own."""
        self._known = set()

    def _time_of(self, timestamp: object) -> int:
        """Epoch milliseconds; now for an unusable timestamp, as with the official client."""
        try:
            return epoch_ms(timestamp)
        except InvalidRecordError as error:
            if self._strict:
                raise
            self._warn("timestamp", f"log(): {error}. The record has the time of the call")
            return self._wall.ms()

    def _follow(self, step: int, *, automatic: bool) -> None:
        """Sets the next automatic step behind the highest step so far."""
        self.highest = int(step)  # it may be numpy's, or a float without a fraction
        if not automatic:
            self._steps = itertools.count(self.highest + 1)

    def _sharded(self, encoded: Encoded) -> Encoded:
        """Each share under a name of its own, which is declared in place of that of the whole."""
        files, new, rejections = list[Attached](), dict(encoded.new), list(encoded.rejections)
        for file in encoded.files:
            shard = None
            if file.media.shards is not None:
                new.pop(file.name, None)
                try:
                    shard = shard_of(file.name, file.media.shards, self.job)
                except ValueError as error:
                    rejections.append(_rejected(file, str(error)))
                    if self._strict:
                        raise InvalidRecordError(str(rejections[-1])) from error
                    continue
            if shard is None:
                files.append(file)
            elif shard:
                files.append(msgspec.structs.replace(file, name=shard.log_name, shard=shard))
        for file in files:
            if file.name not in self._known:
                new[file.name] = file.media.log_type
        return msgspec.structs.replace(encoded, files=tuple(files), new=new, rejections=tuple(rejections))

    def _attach(self, files: Iterable[Attached], step: int, time_ms: int) -> None:
        rejections = []
        for file in files:
            rejection = self.attachments.log(file, step, time_ms)
            if rejection is not None:
                rejections.append(rejection)
            elif self._types.get(file.name, file.media.log_type) != file.media.log_type:
                self._warn(
                    f"type:{file.name}",
                    f"{file.name!r} was {self._types[file.name]} first and is {file.media.log_type} now; the "
                    "server shows a name as what it was first: log the file under another one",
                )
        if rejections and self._strict:
            raise InvalidRecordError("; ".join(map(str, rejections)))
        self._reject(rejections)

    def _declare(self, names: Mapping[str, LogType]) -> None:
        by_kind: dict[LogType, dict[str, LogType]] = {}
        for name, kind in names.items():
            by_kind.setdefault(kind, {})[name] = kind
        for kind, found in by_kind.items():
            writer = self._files.stream_of(kind)
            if writer.append(declaration(found), DECLARE):
                self._files.declared += 1
                self._known.update(found)
                self._types.update(found)
            else:
                self._files.undeclared += 1

    def _reject(self, rejections: Iterable[Rejection]) -> None:
        for rejection in rejections:
            self.rejected += 1
            self.first_reject = self.first_reject or clean_text(str(rejection))[:REJECT_LIMIT]
            self._warn(
                f"rejected:{rejection.name}:{rejection.type_name}",
                f"log(): {rejection.what} was left out: {rejection.advice}",
            )


class FileLog:
    """Keeps files and writes their lines; any thread and any signal handler may call it.

    Attributes:
        dropped: files for which there was no room.
    """

    def __init__(self, files: LeaseFiles, warn: WarnOnce) -> None:
        self._files = files
        self._warn = warn
        self.dropped = 0

    def log(self, file: Attached, step: int, time_ms: int) -> Rejection | None:
        """Keeps one file; returns a rejection if it cannot be read. Lack of room is counted and warned of."""
        if file.media.source == "":
            return _rejected(file, "it has no file; pass its path or content, or call add_file()")
        try:
            if (
                file.media.log_type == "ARTIFACT"
                and isinstance(path := file.media.source, str)
                and (file.shard is not None or is_many(path))
            ):
                return self._log_folder(file, path, step, time_ms)
            blob = self._files.blobs.keep(file.media.source, file.media.id)
        except NoSourceError as error:
            return _rejected(file, str(error))
        except NoRoomError as error:
            self.dropped += 1
            self._warn(f"no room:{file.name}", f"{file.name!r} is dropped and counted: {error}")
            return None
        if blob.moved:
            self._warn(
                f"moved:{file.name}",
                f"{file.name!r}: {file.media.source!r} was written to while it was logged; what was read is "
                "kept. Log a file when it is closed, or write it under another name and rename it",
            )
        if blob.size > PUT_LIMIT:
            self._warn(
                f"split:{file.name}",
                f"{file.name!r} has {blob.size:,} bytes; storage takes {PUT_LIMIT:,} in one request, so a "
                "server gets it in parts with a manifest, and `pluto-dist download` puts them together",
            )
        return self._write(file, (blob,), encode_line(_line(file, blob, step, time_ms)))

    def _log_folder(self, file: Attached, path: str, step: int, time_ms: int) -> Rejection | None:
        """Its files are one artifact, of this moment; the ranks that write them are to be done before."""
        found, left_out = found_in(path, none=file.shard is not None)
        if not found:
            self._warn(f"empty:{file.name}", f"{file.name!r}: {path!r} has no file, so its share is empty")
        if left_out:
            self._warn(
                f"left out:{file.name}",
                f"{file.name!r}: {len(left_out)} of {path!r} are no files and were left out, the first is "
                f"{left_out[0]!r}: only files are kept, and links to files",
            )
        parts = self._files.blobs.keep_all(found)
        whole = Blob(file.media.id or os.urandom(16).hex(), sum(part.size for part in parts))
        line = msgspec.structs.replace(_line(file, whole, step, time_ms), parts=parts)
        return self._write(file, parts, encode_line(line))

    def _write(self, file: Attached, blobs: Iterable[Blob | Part], line: bytes) -> Rejection | None:
        rejection = None  # of want of room the writer keeps count
        try:
            if self._files.files.append(line):
                return None
        except InvalidRecordError as error:  # endless annotations
            rejection = _rejected(file, str(error))
        for blob in blobs:
            self._files.blobs.discard(blob)
        return rejection


def _line(file: Attached, blob: Blob, step: int, time_ms: int) -> FileLine:
    media = file.media
    return FileLine(
        path=blob.name,
        file_name=media.file_name(step, blob.name),
        file_type=media.file_type,
        log_name=file.name,
        step=step,
        time=time_ms,
        file_size=blob.size,
        log_type=media.log_type,
        caption=media.caption,
        sample_index=file.sample_index,
        annotations=media.annotations,
        source=blob.source,
        seen=blob.seen,
        linked=blob.linked,
        shard=file.shard,
    )


def _rejected(file: Attached, advice: str) -> Rejection:
    return Rejection(file.name, type(file.media).__name__, advice)
