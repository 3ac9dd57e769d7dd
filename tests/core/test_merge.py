"""Shared state merges (G9)."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pluto_dist.core.rules.changes import (
    MAX_TAGS,
    JsonObject,
    add_tags,
    deep_merge,
    inherit_tags,
    merge_json,
    merge_tags,
    remove_tags,
)
from pluto_dist.errors import InvalidRecordError


@pytest.mark.parametrize(
    ("base", "patch", "merged"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {}, {"a": 1}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3, "d": 4}}, {"a": {"b": 1, "c": 3, "d": 4}}),
        ({"a": {"b": {"c": {"d": 1}}}}, {"a": {"b": {"c": {"e": 2}}}}, {"a": {"b": {"c": {"d": 1, "e": 2}}}}),
        ({"a": [1, 2, 3]}, {"a": [4]}, {"a": [4]}),
        ({"a": [{"b": 1}]}, {"a": [{"c": 1}]}, {"a": [{"c": 1}]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": None}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": 2}),
        ({"a": 2}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": {"b": 1}}, {"a": {}}, {"a": {"b": 1}}),
        ({"a": {"b": 1}}, {"a": [1]}, {"a": [1]}),
    ],
)
def test_config_merges_as_on_the_server(base: JsonObject, patch: JsonObject, merged: JsonObject) -> None:
    """G9"""
    before = copy.deepcopy((base, patch))
    assert deep_merge(base, patch) == merged
    assert (base, patch) == before


def test_depth_is_not_limited() -> None:
    def nested(leaf: str) -> JsonObject:
        value: JsonObject = {leaf: 1}
        for _ in range(50_000):
            value = {"d": value}
        return value

    merged = deep_merge(nested("a"), nested("b"))
    for _ in range(50_000):
        merged = merged["d"]  # type: ignore[assignment]
    assert merged == {"a": 1, "b": 1}


def test_merging_again_does_not_reach_into_an_earlier_patch() -> None:
    patch: JsonObject = {"a": {"b": 1}}
    once = deep_merge({}, patch)
    assert deep_merge(once, {"a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}
    assert (patch, once) == ({"a": {"b": 1}}, {"a": {"b": 1}})


def test_json_is_merged_as_what_it_says() -> None:
    """G9"""
    assert merge_json(b'{"a":{"b":1},"big":12345678901234567890}', b'{"a":{"c":null}}') == (
        b'{"a":{"b":1,"c":null},"big":12345678901234567890}'
    )
    assert merge_json(b"{}", b"{}") == b"{}"


@pytest.mark.parametrize(
    "bad",
    [b"", b"[1]", b"null", b"{", b'{"a":NaN}', b'{"a":"\xff"}', b'{"d":' * 100_000 + b"1" + b"}" * 100_000],
)
def test_what_is_no_json_object_is_refused(bad: bytes) -> None:
    for base, patch in ((bad, b"{}"), (b"{}", bad)):
        with pytest.raises(InvalidRecordError, match="no JSON object"):
            merge_json(base, patch)


json_values = st.recursive(
    st.none() | st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
)
json_objects = st.dictionaries(st.sampled_from("abc"), json_values, max_size=3)


def reference(base: JsonObject, patch: JsonObject) -> JsonObject:
    merged = dict(base)
    for key, value in patch.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = reference(old, value) if both else value  # type: ignore[arg-type]
    return merged


@given(json_objects, json_objects)
def test_merge_is_the_recursive_rule_and_repeats_change_nothing(base: JsonObject, patch: JsonObject) -> None:
    merged = deep_merge(base, patch)
    assert merged == reference(base, patch)
    assert deep_merge(merged, patch) == merged


def test_new_tags_come_last_and_once() -> None:
    """G9"""
    assert add_tags(("b", "a"), ["c", "a", "c", "d"]) == ("b", "a", "c", "d")
    assert add_tags(("a", "a"), ()) == ("a",)
    assert add_tags((), "one tag") == ("one tag",)


def test_removed_tags_leave_the_order() -> None:
    """G9"""
    assert remove_tags(("c", "a", "b"), ["a", "unknown"]) == ("c", "b")
    assert remove_tags(("c", "a"), "a") == ("c",)
    assert remove_tags((), ["a"]) == ()


def test_fifty_tags_are_the_limit() -> None:
    tags = add_tags((), [f"t{n}" for n in range(MAX_TAGS)])
    assert add_tags(tags, ["t0"]) == tags
    with pytest.raises(InvalidRecordError, match=r"51 tags, the last one 'more'; the limit is 50"):
        add_tags(tags, ["more"])


def test_a_run_has_one_group() -> None:
    tags = add_tags(("group:a",), ["group:a", "groups"])
    assert tags == ("group:a", "groups")
    with pytest.raises(InvalidRecordError, match="'group:a' and 'group:b' are both groups"):
        add_tags(tags, ["group:b"])
    assert add_tags(remove_tags(tags, "group:a"), "group:b") == ("groups", "group:b")


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        (1, "type int"),
        (None, "NoneType"),
        ("", "blank"),
        (" \n", "blank"),
        ("a\0", "NUL"),
        ("\ud800", "surrogate"),
    ],
)
def test_a_tag_the_server_cannot_hold_is_refused(tag: str, message: str) -> None:
    with pytest.raises(InvalidRecordError, match=message):
        add_tags(("a",), [tag])


@pytest.mark.parametrize(
    ("parent", "own", "tags"),
    [
        (("p1", "group:p"), ("c", "group:c"), ("p1", "c", "group:c")),
        (("p1", "group:p"), ("c",), ("p1", "group:p", "c")),
        (("p1",), (), ("p1",)),
        (("p1", "c", "p1"), ("c",), ("p1", "c")),
        ((), ("c", "c"), ("c",)),
    ],
)
def test_a_fork_has_its_parents_tags_before_its_own(
    parent: tuple[str, ...], own: tuple[str, ...], tags: tuple[str, ...]
) -> None:
    """As the server makes them: a group of its own replaces the parent's."""
    assert inherit_tags(parent, own) == tags


def test_of_too_many_tags_those_of_the_parent_are_left_out() -> None:
    """The fork's own are what its caller asked for."""
    own = tuple(f"own{number}" for number in range(30))
    tags = inherit_tags([f"p{number}" for number in range(40)], own)
    assert len(tags) == MAX_TAGS
    assert tags[-30:] == own
    assert tags[0] == "p0"
    assert inherit_tags(["p"], [f"own{number}" for number in range(50)])[0] == "own0"


def test_removing_a_tag_that_nobody_here_knew() -> None:
    """It was added on the server's page."""
    assert merge_tags(["a", "page"], ["a"], ["a", "b"], ["page"]) == ("a", "b")
    assert merge_tags(["a"], ["a"], ["a"], ["never there"]) == ("a",)
