"""What a process says of itself: anything becomes strict JSON of bounded size, or a typed error."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec
from hypothesis import strategies as st

from pluto_dist.client.arguments import (
    code_of,
    config_of,
    fork_of,
    label_of,
    name_of,
    role_of,
    run_of,
    tags_of,
)
from pluto_dist.client.evidence import evidence_of
from pluto_dist.client.values import MAX_BYTES, snapshot
from pluto_dist.core.values.lifecycle import (
    Claim,
    ConfigUpdated,
    Evidence,
    Finished,
    decode_entry,
    encode_entry,
)
from pluto_dist.errors import PlutoDistError
from tests.fuzz.budget import fuzz
from tests.fuzz.hostile import HostileError, keys, scalars, values
from tests.fuzz.test_spool import OPENED
from tests.fuzz.values import any_text, deep, integers

STAMP: dict[str, Any] = {"at": 1.0, "wall_ms": 1}
objects = st.recursive(
    values,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3)
        | st.integers(60, 70).map(deep)
        | st.sampled_from([sys, json, snapshot, Exception("x")])
    ),
    max_leaves=6,
)


def refuse_constant(token: str) -> None:
    """NaN and infinities are no strict JSON."""
    raise AssertionError(token)


@fuzz(
    60, config=st.dictionaries(keys, objects, max_size=4) | objects, limit=st.sampled_from([MAX_BYTES, 300])
)
def test_any_config_is_strict_json_or_a_typed_error(config: Any, limit: int) -> None:
    """G9: whatever `init(config=…)` is given, the coordinator can read it, and it has a bound."""
    try:
        found = snapshot(config, limit=limit)
    except PlutoDistError:
        return
    assert len(found.json) <= limit
    assert isinstance(json.loads(found.json, parse_constant=refuse_constant), dict)
    assert b"\\u0000" not in found.json
    entry = ConfigUpdated(**STAMP, patch=msgspec.Raw(found.json))
    assert bytes(written(entry).patch) == found.json  # type: ignore[attr-defined]


def written(entry: Any) -> Any:
    """The entry as the coordinator reads it."""
    return decode_entry(encode_entry(entry))


@fuzz(
    60,
    name=any_text | scalars,
    label=any_text | scalars | st.none(),
    run=any_text | scalars | integers,
    tags=any_text | scalars | st.lists(any_text | scalars, max_size=3),
    fork=st.tuples(any_text | scalars | integers, integers | scalars),
    role=any_text | scalars,
)
def test_any_argument_of_init_is_an_entry_or_a_typed_error(
    name: Any, label: Any, run: Any, tags: Any, fork: tuple[Any, Any], role: Any
) -> None:
    """Every value that `init()` lets through can be written, and read by the coordinator."""
    fields: dict[str, Any] = {}
    for field, make in {
        "name": lambda: name_of(name),
        "label": lambda: label_of(label),
        "run": lambda: run_of("run_id", run),
        "tags": lambda: tags_of(tags),
        "fork": lambda: fork_of(*fork, True, False),
        "wanted": lambda: role_of(role),
        "config": lambda: msgspec.Raw(config_of({"a": name})),
    }.items():
        try:
            fields[field] = make()
        except PlutoDistError:
            continue
    entry = msgspec.structs.replace(OPENED, **fields)
    found = written(entry)
    assert isinstance(found, Claim)
    assert (found.name, found.label, found.run) == (entry.name, entry.label, entry.run)


@fuzz(40, code=integers | scalars | values)
def test_any_code_of_finish_is_an_entry_or_a_typed_error(code: Any) -> None:
    """`finish(code=…)` must never write an end that the coordinator cannot read."""
    try:
        entry = Finished(**STAMP, code=code_of("code", code))
    except PlutoDistError:
        return
    assert written(entry) == entry


@fuzz(
    40,
    message=any_text | scalars | st.sampled_from(["x" * 20_000_000, "é\n" * 3_000_000]),
    kind=st.sampled_from([ValueError, RuntimeError, OSError, SystemExit, KeyboardInterrupt, HostileError]),
    cause=st.sampled_from([None, HostileError(), ValueError("\ud800")]),
)
def test_any_exception_is_evidence_that_can_be_written(message: Any, kind: Any, cause: Any) -> None:
    """R9, G7: what an exception says, or cannot say, does not keep it from being told."""
    try:
        raise kind(message) from cause
    except BaseException as error:  # noqa: BLE001 # SystemExit too
        fields = evidence_of(error)
    assert fields is not None
    line = encode_entry(Evidence(**STAMP, **fields))
    assert len(line) < 1 << 20
    assert isinstance(decode_entry(line), Evidence)
