"""`GET /api/runs/list`: a project's runs, newest first, by name, tags, status and what they were given."""

import json
from collections.abc import Callable, Collection
from typing import Any

from .api_query import integer
from .clock import iso
from .core import Core
from .field_values import FieldValue, field_values, numberish
from .jsontext import Json, JsonObject
from .runs import Run
from .status import STATUSES
from .tenants import Key
from .wire import RefusalError, Request, Response, error, json_response

_EMULATED = frozenset(
    {"projectName", "search", "tags", "status", "limit", "offset", "filter", "fieldFilters"}
)
_FIELDS = frozenset({"state", "status", "name", "displayName", "display_name", "tags"})
_NOT_EMULATED = ("heartbeat", "created", "updated", "summaryMetrics.", "summary_metrics.")
_OPERATORS = frozenset({"$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$regex"})

Test = Callable[[Run], bool]


def list_runs(core: Core, key: Key, request: Request) -> Response:
    """Answer a list. Call under the lock."""
    unknown = request.query.keys() - _EMULATED
    if unknown:
        raise NotImplementedError(f"the emulator's list knows no {', '.join(sorted(unknown))}")
    limit = integer(request, "limit", 50, at_least=1, at_most=200)
    offset = integer(request, "offset", 0, at_most=100_000)
    name = request.query.get("projectName")
    if not name:
        raise _refused("projectName is required unless konduktorJobPrefix is provided")
    tests = [_by_status(request), _by_tags(request), _by_search(request), *_by_fields(core, request)]
    tests.append(_by_filter(core, request))
    project = core.state.book.project(key.organization.id, name)
    mine = [] if project is None else core.state.book.of_project(project)
    runs = [run for run in mine if all(test(run) for test in tests)]
    runs.sort(key=lambda run: (run.created_ms, run.id), reverse=True)
    page = runs[offset : offset + limit]
    for run in page:
        core.audit.shared.learned(request.peer, run, run.tags)
    return json_response({"runs": [_row(run) for run in page], "total": len(runs)})


def _row(run: Run) -> JsonObject:
    return {
        "id": run.id,
        "name": run.name,
        "number": run.number,
        "displayId": run.display_id,
        "projectName": run.project.name,
        "status": run.status,
        "tags": run.tags,
        "createdAt": iso(run.created_ms),
    }


def _refused(text: str) -> RefusalError:
    return RefusalError(error(400, text))


def _comma_list(request: Request, name: str) -> list[str]:
    return [part.strip() for part in request.query.get(name, "").split(",") if part.strip()]


def _by_search(request: Request) -> Test:
    """Names only: an external id is not found so."""
    wanted = request.query.get("search", "").strip().lower()
    return lambda run: wanted in run.name.lower()


def _by_tags(request: Request) -> Test:
    wanted = set(_comma_list(request, "tags"))
    return lambda run: not wanted or bool(wanted & set(run.tags))


def _by_status(request: Request) -> Test:
    wanted = _comma_list(request, "status")
    invalid = [status for status in wanted if status not in STATUSES]
    if invalid:
        raise _refused(f"invalid status value(s): {', '.join(invalid)}; allowed: {', '.join(STATUSES)}")
    return lambda run: not wanted or run.status in wanted


# --- structured terms -------------------------------------------------------------------------------


def _by_fields(core: Core, request: Request) -> list[Test]:
    given = request.query.get("fieldFilters")
    if not given:
        return []
    try:
        terms = json.loads(given)
    except ValueError:
        raise _refused("fieldFilters must be a valid JSON array") from None
    if not isinstance(terms, list) or not all(map(_is_term, terms)):
        shape = "array of {source, key, dataType, operator, values}"
        raise _refused(f"fieldFilters has invalid shape; expected {shape}")
    return [_term(core, term) for term in terms]


def _is_term(term: Json) -> bool:
    return (
        isinstance(term, dict)
        and term.get("source") in ("config", "systemMetadata")
        and term.get("dataType") in ("text", "number", "date", "option")
        and isinstance(term.get("key"), str)
        and isinstance(term.get("operator"), str)
        and isinstance(term.get("values"), list)
    )


def _term(core: Core, term: dict[str, Any]) -> Test:
    wanted = [str(value) for value in term["values"]]
    operators: dict[str, Callable[[FieldValue | None], bool]] = {
        "exists": lambda found: found is not None,
        "not exists": lambda found: found is None,
        "is": lambda found: found is not None and found.text in wanted[:1],
        "is not": lambda found: found is None or found.text not in wanted[:1],
        "is any of": lambda found: found is not None and found.text in wanted,
        "is none of": lambda found: found is None or found.text not in wanted,
    }
    fits = operators.get(term["operator"])
    if fits is None:
        raise NotImplementedError(f"the emulator knows no operator {term['operator']!r}")
    return lambda run: fits(_value(core, run, term["source"], term["key"]))


def _value(core: Core, run: Run, source: str, key: str) -> FieldValue | None:
    lag_ms = round(core.state.settings.index_lag_s * 1000)
    return field_values(run, source, core.state.now_ms(), lag_ms).get(key)


# --- the query language -----------------------------------------------------------------------------


def _by_filter(core: Core, request: Request) -> Test:
    given = request.query.get("filter")
    if not given:
        return lambda run: True
    try:
        node = json.loads(given)
    except ValueError:
        raise _refused("filter must be valid JSON") from None
    return _node(core, node)


def _node(core: Core, node: Json) -> Test:
    """An object; several keys are all to hold."""
    if not isinstance(node, dict):
        raise _refused("filter must be an object")
    tests = [_entry(core, key, value) for key, value in node.items()]
    return lambda run: all(test(run) for test in tests)


def _entry(core: Core, key: str, value: Json) -> Test:
    if key in ("$and", "$or"):
        if not isinstance(value, list):
            raise _refused(f"{key} expects an array")
        tests, combine = [_node(core, child) for child in value], all if key == "$and" else any
        return lambda run: combine(test(run) for test in tests)
    if key == "$not":
        inner = _node(core, value)
        return lambda run: not inner(run)
    if key.startswith("$"):
        raise _refused(f"unknown boolean operator: {key}")
    return _leaf(core, key, value)


def _leaf(core: Core, field: str, value: Json) -> Test:
    source, _, key = field.partition(".")
    of_source = source in ("config", "systemMetadata") and bool(key)
    if field not in _FIELDS and not of_source:
        if field.startswith(_NOT_EMULATED):
            raise NotImplementedError(f"the emulator filters by no {field}")
        raise _refused(f"unknown filter field: {field}")
    operators = value if isinstance(value, dict) and any(o.startswith("$") for o in value) else {"$eq": value}
    for operator in operators:
        if operator not in _OPERATORS:
            raise _refused(f"unknown leaf operator: {operator}")
    if of_source:
        tests = [_field_test(core, source, key, *item) for item in operators.items()]
        return lambda run: all(test(run) for test in tests)
    (operator, wanted), *more = operators.items()
    if more:
        raise NotImplementedError(f"the emulator takes one operator of {field}")
    return _column(field, operator, wanted)


def _column(field: str, operator: str, wanted: Json) -> Test:
    values: Callable[[Run], Collection[str]] = {
        "tags": lambda run: run.tags,
        "status": lambda run: (run.status,),
        "state": lambda run: (run.status,),
    }.get(field, lambda run: (run.name,))
    listed = [str(item) for item in (wanted if isinstance(wanted, list) else [wanted])]
    match operator:
        case "$eq" | "$in":
            return lambda run: any(item in values(run) for item in listed)
        case "$ne" | "$nin":
            return lambda run: not any(item in values(run) for item in listed)
        case _:
            raise _refused(f"unsupported operator for {field}: {operator}")


def _field_test(core: Core, source: str, key: str, operator: str, wanted: Json) -> Test:
    """Equality compares numbers as soon as the wanted value reads as one; lists compare texts."""
    listed = [str(item) for item in (wanted if isinstance(wanted, list) else [wanted])]

    def is_equal(found: FieldValue | None) -> bool:
        if found is None:
            return False
        return found.number == float(wanted) if numberish(wanted) else found.text == str(wanted)

    fits: dict[str, Callable[[FieldValue | None], bool]] = {
        "$eq": is_equal,
        "$ne": lambda found: not is_equal(found),
        "$in": lambda found: found is not None and found.text in listed,
        "$nin": lambda found: found is None or found.text not in listed,
    }
    test = fits.get(operator)
    if test is None:
        raise NotImplementedError(f"the emulator compares no field by {operator}")
    return lambda run: test(_value(core, run, source, key))
