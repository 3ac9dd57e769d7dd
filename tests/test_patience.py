"""Nothing in the suite depends on speed: what tests may not do, looked for in their source.

`tests/patience.py` says what they do instead. Measuring is what `tests/bench` is for; simulated time, in
`core`, `scenarios` and `simulation`, passes as fast as it likes; leases of a cluster's store have a time to
live, which really passes.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
SIMULATED = ("core", "scenarios", "simulation", "fuzz/test_core.py")
MEASURING = ("bench", "chaos", "cluster")
SOURCES = {
    str(path.relative_to(TESTS)): path.read_text()
    for path in sorted(TESTS.rglob("*.py"))
    if not str(path.relative_to(TESTS)).startswith((*SIMULATED, *MEASURING, "patience.py"))
}
# The only sleeps: a launcher that looks as often as torchrun does, a rest that is watched, a spread of
# moments at which something is killed, and chaos that goes on for a while.
MAY_SLEEP = {
    "process/launcher.py",
    "process/test_coordinator_rest.py",
    "process/test_coordinator_deaths.py",
    "process/test_server_chaos.py",
}
# What waits at least so long may be measured, and what is only told.
MAY_MEASURE = {
    "adapters/test_describe.py",
    "fuzz/__main__.py",
    "pluto_server/front.py",
    "pluto_server/test_faults.py",
    "process/test_coordinator_rest.py",
    "process/test_server_delivery.py",
}
WAITS = {"wait", "join", "poll", "result", "communicate", "acquire"}
BOUNDED = {"timeout", "within_s", "timeout_s"}
CLOCKS = {"monotonic", "perf_counter", "monotonic_ns", "perf_counter_ns"}


@cache
def calls(file: str) -> tuple[tuple[ast.Call, str], ...]:
    """Every call with the name of what is called; scripts that are texts are not looked into."""
    return tuple(
        (node, node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""))
        for node in ast.walk(ast.parse(SOURCES[file]))
        if isinstance(node, ast.Call)
    )


def is_bound(node: ast.expr) -> bool:
    """A number that is written here, beside 0, which is no wait, and short ones that have to run out."""
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and node.value >= 1


def test_waits_have_the_suites_patience() -> None:
    found = [
        f"{file}:{node.lineno} {ast.unparse(node)}"
        for file in SOURCES
        for node, name in calls(file)
        if (name in WAITS and any(map(is_bound, node.args)))
        or any(given.arg in BOUNDED and is_bound(given.value) for given in node.keywords)
        or name == "timeout"
    ]
    assert not found, "use PATIENCE_S or wait_until() of tests/patience.py"


def test_nobody_sleeps_and_hopes() -> None:
    found = {
        f"{file}:{node.lineno}": file for file in SOURCES for node, name in calls(file) if name == "sleep"
    }
    assert not {place for place, file in found.items() if file not in MAY_SLEEP}, (
        "wait for what has to happen"
    )
    assert set(found.values()) == MAY_SLEEP


def test_durations_are_not_measured() -> None:
    """Scripts that are texts included: they would hand a duration to the test."""
    measuring = re.compile(rf"time\.({'|'.join(CLOCKS)})\(\)")
    found = {file for file, source in SOURCES.items() if measuring.search(source)}
    assert not found - MAY_MEASURE, "what must not be waited out gets a bound of NEVER_S instead"
    assert found == MAY_MEASURE
