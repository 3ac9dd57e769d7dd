"""What the server would answer with 500 never leaves: mended, or refused with a reason."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pluto_dist.backend.pluto import guard
from pluto_dist.backend.pluto.guard import UnfitError, first_fault


def test_short_name_is_kept() -> None:
    assert guard.fit_name("a" * 255) == "a" * 255


def test_long_names_are_cut_to_the_limit_and_stay_different() -> None:
    one, two = guard.fit_name("a" * 300 + "1"), guard.fit_name("a" * 300 + "2")
    assert len(one) == len(two) == 255
    assert one != two
    assert one == guard.fit_name("a" * 300 + "1")
    assert guard.fit_name(one) == one


def test_nul_and_half_surrogates_leave_names() -> None:
    assert guard.fit_name("a\0b\ud800c") == "ab?c"


@pytest.mark.parametrize(
    ("given_name", "sent"),
    [
        ("plain name", "plain name"),
        ("проект é/x", "------ -/x"),
        ("a\tb\nc", "a-b-c"),
        ("  padded ", "padded"),
        ("a\0", "a"),
    ],
)
def test_project_name_fits_into_a_header(given_name: str, sent: str) -> None:
    assert guard.fit_project(given_name) == sent
    assert guard.goes_in_header(sent)


@given(st.text())
def test_every_project_name_is_made_fit_or_refused(name: str) -> None:
    try:
        fitted = guard.fit_project(name)
    except UnfitError:
        return
    assert guard.goes_in_header(fitted)
    assert len(fitted) <= 255
    assert guard.fit_project(fitted) == fitted


@pytest.mark.parametrize("name", ["", "   ", "\0"])
def test_empty_project_name_is_refused(name: str) -> None:
    with pytest.raises(UnfitError, match="project"):
        guard.fit_project(name)


@pytest.mark.parametrize("name", ["", " a", "a ", "é", "a\r\nX-Evil: 1"])
def test_such_a_project_name_does_not_go_into_a_header(name: str) -> None:
    assert not guard.goes_in_header(name)


@pytest.mark.parametrize("value", [0, -1, 2**63, 1.5, True, "7"])
def test_run_id_is_a_positive_64_bit_integer(value: int) -> None:
    with pytest.raises(UnfitError, match="Run id"):
        guard.run_id(value)


def test_good_numbers_pass() -> None:
    assert guard.run_id(2**63 - 1) == 2**63 - 1
    assert guard.fork_step(0) == 0
    assert guard.epoch_ms(8_640_000_000_000_000) == 8_640_000_000_000_000


@pytest.mark.parametrize("value", [-1, 0.5, 2**63, False])
def test_fork_step_is_a_natural_number(value: int) -> None:
    with pytest.raises(UnfitError, match="fork step"):
        guard.fork_step(value)


@pytest.mark.parametrize("value", [-1, 0.5, 8_640_000_000_000_001])
def test_instants_stay_in_the_servers_range(value: int) -> None:
    with pytest.raises(UnfitError, match="time"):
        guard.epoch_ms(value)


def test_tags_keep_order_and_lose_repeats() -> None:
    assert guard.fit_tags(["b", "a", "b", "a\0"]) == ["b", "a"]


def test_fifty_tags_pass_and_one_more_is_refused() -> None:
    fifty = [str(n) for n in range(50)]
    assert guard.fit_tags(fifty) == fifty
    with pytest.raises(UnfitError, match="51 tags; the server takes 50"):
        guard.fit_tags([*fifty, "x"])


def test_second_group_tag_is_refused() -> None:
    assert guard.fit_tags(["group:a", "x"]) == ["group:a", "x"]
    with pytest.raises(UnfitError, match="group:a, group:b"):
        guard.fit_tags(["group:a", "group:b"])


@pytest.mark.parametrize(
    ("raw", "sent"),
    [
        (b'{"a": 1}', b'{"a": 1}'),
        (b'{"a":NaN,"b":[Infinity,-Infinity]}', {"a": "NaN", "b": ["Infinity", "-Infinity"]}),
        (b'{"a":1e400,"b":-1e400}', {"a": "Infinity", "b": "-Infinity"}),
        (b'{"a\\u0000":"x\\u0000y"}', {"a": "xy"}),
        (b'{"a":"\\ud800"}', {"a": "?"}),
        (b'{"a":"\\ud83d\\ude00"}', {"a": "😀"}),
        (b'{"a":"\\\\u0000"}', {"a": "\\u0000"}),
        (b'{"a":"\x00"}', {"a": ""}),
    ],
)
def test_json_is_made_strict_and_storable(raw: bytes, sent: bytes | dict[str, object]) -> None:
    fitted = guard.fit_object(raw)
    if isinstance(sent, bytes):
        assert fitted.encode() == sent
    else:
        assert json.loads(fitted) == sent


@pytest.mark.parametrize("raw", [b"[1]", b"null", b'"x"', b"{", b"", b"\xff", b"[" * 100_000])
def test_other_than_an_object_is_refused(raw: bytes) -> None:
    with pytest.raises(UnfitError):
        guard.fit_object(raw)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON_VALUES))
def test_whatever_python_writes_as_json_becomes_strict_json(value: dict[str, object]) -> None:
    def refuse(token: str) -> None:
        raise AssertionError(token)

    fitted = guard.fit_object(json.dumps(value).encode())
    assert "\\u0000" not in fitted.replace("\\\\", "")
    assert isinstance(json.loads(fitted, parse_constant=refuse), dict)


GOOD_DATA = b'{"time":1,"step":2,"data":"x","dataType":"table","logName":"a/b"}\n'
GOOD_LOG = b'{"time":1,"message":"","lineNumber":1,"logType":"INFO"}\n'


def test_good_lines_pass() -> None:
    assert first_fault("data", [GOOD_DATA, GOOD_DATA]) is None
    assert first_fault("console", [GOOD_LOG]) is None


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("data", GOOD_DATA.replace(b'"step":2', b'"step":-2')),
        ("data", GOOD_DATA.replace(b'"step":2', b'"step":2.0')),
        ("data", GOOD_DATA.replace(b'"step":2', b'"step":18446744073709551616')),
        ("data", GOOD_DATA.replace(b'"x"', b"{}")),
        ("data", GOOD_DATA.replace(b"a/b", b" ")),
        ("data", GOOD_DATA.replace(b"}", b',"more":1}')),
        ("data", b"{"),
        ("data", b"\xff"),
        ("console", GOOD_LOG.replace(b"INFO", b"")),
        ("console", GOOD_LOG.replace(b"}", b',"step":1}')),
        ("console", GOOD_LOG.replace(b'"lineNumber":1', b'"lineNumber":18446744073709551616')),
        ("console", GOOD_DATA),
    ],
)
def test_bad_line_is_named(kind: str, line: bytes) -> None:
    """G6: found before sending, because the server keeps the lines before it."""
    good = GOOD_DATA if kind == "data" else GOOD_LOG
    fault = first_fault("data" if kind == "data" else "console", [good, line, good])
    assert fault is not None
    assert fault[0] == 1
