"""A Run that goes nowhere reads back what was said to it, and never fails (R13)."""

from __future__ import annotations

from argparse import Namespace

import pytest

import pluto_dist as pluto
from pluto_dist.client.offline import DisabledRun
from pluto_dist.client.runs import RUNS


@pytest.fixture(autouse=True)
def _of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has no disabled Run before and afterwards."""
    monkeypatch.setattr(RUNS, "disabled", False)


def disabled(**given: object) -> DisabledRun:
    run = pluto.init(mode="disabled", **given)  # type: ignore[arg-type]
    assert isinstance(run, DisabledRun)
    return run


@pytest.mark.parametrize("config", [{"lr": 1}, Namespace(lr=1)])
def test_config_and_tags_are_what_was_said(config: object) -> None:
    run = disabled(config=config, tags="a", name="n", run_id="r", project="p")
    run.update_config({"net": {"depth": 2}})
    run.update_config({"net": {"width": 3}})
    run.add_tags(["b", "c"])
    run.remove_tags("a")
    assert run.config == {"lr": 1, "net": {"depth": 2, "width": 3}}
    assert run.tags == ["b", "c"]
    assert (run.project, run.name, run.run_id) == ("p", "n", "r")
    assert repr(run) == "<pluto_dist.Run r disabled>"


def test_what_is_read_is_a_copy() -> None:
    """As of a Run that is not disabled."""
    run = disabled(config={"net": {"depth": 2}}, tags=["a"])
    run.config["net"]["depth"] = 9
    run.tags.append("b")
    assert (run.config, run.tags) == ({"net": {"depth": 2}}, ["a"])


@pytest.mark.parametrize(
    ("code", "status"), [(None, "COMPLETED"), (0, "COMPLETED"), (2, "TERMINATED"), (1, "FAILED")]
)
def test_its_end_is_seen(code: int | None, status: str) -> None:
    run = disabled()
    assert (run.status, run.ended) == ("RUNNING", False)
    run.finish(code)
    run.finish(1)
    assert (run.status, run.ended) == (status, True)


def test_an_exception_in_the_block_fails_it() -> None:
    with pytest.raises(ValueError, match="boom"), disabled() as run:
        raise ValueError("boom")
    assert run.status == "FAILED"


def test_nothing_makes_it_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that cannot be used, an argument that cannot be meant: none of it matters here."""
    monkeypatch.setenv("PLUTO_DIST_EXIT_WAIT_S", "20s")
    monkeypatch.setenv("PLUTO_DIST_MODE", "disabled")
    run = pluto.init(config=[1], tags=[3], name=5, resume=1, settings={"heartbeat": 1})  # type: ignore[arg-type]
    assert isinstance(run, DisabledRun)
    run.update_config(5)  # type: ignore[arg-type]
    run.add_tags(3)  # type: ignore[arg-type]
    run.remove_tags([None])  # type: ignore[list-item]
    run.log({"loss": None}, step=-1)
    run.finish("1", timeout_s="5")  # type: ignore[arg-type]
    assert (run.config, run.tags, run.ended) == ({}, [], True)
