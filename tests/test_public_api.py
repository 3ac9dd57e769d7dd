"""What users may rely on: names, their order, and what is said about names that are not offered."""

from __future__ import annotations

import inspect
import pickle  # noqa: TID251 # the test is that errors survive it
import subprocess

import pytest

import pluto_dist
from pluto_dist import errors
from pluto_dist.client.interface import leave_out, settings_of_run
from pluto_dist.client.runs import RUNS
from pluto_dist.host.settings import load
from tests.official import OFFICIAL_PYTHON, needs_official_client

OFFICIAL_INIT = [
    "dir", "project", "name", "config", "settings", "tags", "run_id", "resume", "fork_run_id", "fork_step",
    "inherit_config", "inherit_tags",
]  # fmt: skip
PROPERTIES = [
    "id", "display_id", "run_id", "name", "project", "config", "tags", "status", "url", "resumed",
    "fork_run_id", "fork_step", "role", "label", "lease_id", "epoch", "cancelled", "preempted", "ended",
    "next_step", "settings",
]  # fmt: skip
TAKEN = ["watch", "alert"]  # as the official client's; a disabled Run takes any arguments
METHODS = [
    "log",
    "finish",
    "close",
    "update_config",
    "add_tags",
    "remove_tags",
    "flush",
    "on_preempt",
    "checkpoint",
    "checkpoints",
    "publish",
    "subscribe",
    "__enter__",
    "__exit__",
]


def test_all_is_sorted_and_every_name_is_there() -> None:
    assert pluto_dist.__all__ == sorted(pluto_dist.__all__)
    for name in pluto_dist.__all__:
        assert getattr(pluto_dist, name) is not None


def test_init_has_the_official_arguments_in_their_order_and_ours_by_keyword() -> None:
    parameters = inspect.signature(pluto_dist.init).parameters
    assert list(parameters)[: len(OFFICIAL_INIT)] == OFFICIAL_INIT
    *ours, unknown = list(parameters.values())[len(OFFICIAL_INIT) :]
    assert [each.name for each in ours] == ["role", "label", "mode", "strict", "quiet", "save_dir"]
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in ours)
    assert unknown.kind is inspect.Parameter.VAR_KEYWORD, "the official client takes any"


@needs_official_client
def test_the_official_client_agrees_on_the_order_of_arguments() -> None:
    probe = "import inspect, pluto; print(*list(inspect.signature(pluto.init).parameters)[:12])"
    done = subprocess.run([OFFICIAL_PYTHON, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split() == OFFICIAL_INIT


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_run_and_a_disabled_run_have_the_property(name: str) -> None:
    from pluto_dist.client.offline import DisabledRun

    assert isinstance(inspect.getattr_static(pluto_dist.Run, name), property)
    assert hasattr(DisabledRun("p", "n", "r", {}, []), name)


@pytest.mark.parametrize("name", METHODS)
def test_a_run_and_a_disabled_run_have_the_method(name: str) -> None:
    from pluto_dist.client.offline import DisabledRun

    ours = inspect.signature(getattr(pluto_dist.Run, name))
    assert list(ours.parameters) == list(inspect.signature(getattr(DisabledRun, name)).parameters)


def test_a_run_shows_its_users_nothing_else() -> None:
    """What hooks and the launcher need is the lease's; a user's completion lists what is promised."""
    shown = {name for name in dir(pluto_dist.Run) if not name.startswith("_")}
    assert shown == {name for name in (*PROPERTIES, *METHODS, *TAKEN) if not name.startswith("_")}


def test_an_unknown_keyword_of_init_is_left_out_with_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """The official client takes any; a script does not end because of one."""
    leave_out({"x_file_stream_max_conn": 4, "projct": "a"}, ("project", "name"), strict=False)
    assert [each.message for each in caplog.records] == [
        "init() has no argument 'x_file_stream_max_conn', so x_file_stream_max_conn=… was left out; settings "
        "are given by settings={…}",
        "init() has no argument 'projct', so projct=… was left out; did you mean project=?",
    ]
    with pytest.raises(errors.ArgumentError, match="projct"):
        leave_out({"projct": "a"}, ("project",), strict=True)


def test_settings_are_an_object_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts for the official client build one and change it."""
    monkeypatch.setattr(RUNS, "disabled", RUNS.disabled)
    settings = pluto_dist.setup({"quiet": True})
    settings.mode = "noop"
    settings.update(pluto_dist.Settings(project="digits"))
    assert settings.to_dict() == {"quiet": True, "mode": "noop", "project": "digits"}
    assert pluto_dist.setup(settings) is settings
    run = pluto_dist.init(settings=settings)
    assert (run.settings.mode, run.settings.project, run.settings._op_status) == ("disabled", "digits", -1)
    with pytest.raises(AttributeError, match="'speed' was not set"):
        settings.speed  # noqa: B018 # the access is the test
    with pytest.raises(errors.ArgumentError, match="pass a dict of settings"):
        pluto_dist.setup(["quiet"])  # type: ignore[arg-type] # that is the test


def test_the_settings_of_a_run_are_a_copy_without_the_key(caplog: pytest.LogCaptureFixture) -> None:
    """G11; and what a script sets there is not dropped silently."""
    loaded = load({"PLUTO_API_KEY": "mlps_secret", "HOME": ""}, {"project": "p"})
    known = {"id": 7, "display_id": "P-1", "run_id": "r", "name": "n", "project": "q", "status": "FAILED"}
    found = settings_of_run(loaded, **known, url="https://x/run")
    assert (found.url_view, found._op_id, found._display_id, found._external_id) == (
        "https://x/run",
        7,
        "P-1",
        "r",
    )
    assert (found.project, found._op_name, found._op_status, found.tag) == ("q", "n", 1, "pluto")
    assert "secret" not in str(found.to_dict())
    found.x_log_level = 10
    assert not hasattr(found, "x_log_level")
    assert "run.settings.x_log_level = 10 has no effect" in caplog.text


def test_attach_names_its_keywords() -> None:
    """No `**more`: a misspelt keyword is an ordinary TypeError."""
    assert [*inspect.signature(pluto_dist.attach).parameters] == [
        "run_id", "label", "timeout_s", "role", "settings", "dir", "project", "mode", "strict", "quiet",
    ]  # fmt: skip
    with pytest.raises(TypeError, match="foo"):
        pluto_dist.attach(foo=3)


@pytest.mark.parametrize(("name", "why"), [("start", "init"), ("stop", "close")])
def test_a_run_says_where_to_find_what_it_does_not_offer(name: str, why: str) -> None:
    """As the module does for its names."""
    from pluto_dist.client.offline import DisabledRun

    for run in (DisabledRun("p", "n", "r", {}, []), object.__new__(pluto_dist.Run)):
        with pytest.raises(AttributeError, match=rf"no attribute '{name}': .*{why}"):
            getattr(run, name)
        assert not hasattr(run, "nonsense")


@pytest.mark.parametrize("name", ["logout", "query", "sweep", "Graph", "System"])
def test_a_name_that_is_not_offered_says_where_to_find_it(name: str) -> None:
    with pytest.raises(AttributeError, match=rf"pluto_dist has no '{name}': .{{10,}}"):
        getattr(pluto_dist, name)


def test_an_unknown_name_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        pluto_dist.nonsense  # noqa: B018 # the access is the test


def test_log_before_init_says_so() -> None:
    with pytest.raises(errors.RunNotFoundError, match="call init"):
        pluto_dist.log({"loss": 1.0})


def test_errors_survive_pickling_and_the_wire() -> None:
    found = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.PlutoDistError)
    ]
    assert len(found) > 15
    for kind in found:
        error = kind("what happened, with 7, and the way out", value=7)
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert (again.message, again.fields) == (error.message, error.fields)
        assert type(errors.from_wire(error.code, error.message)) is kind


def test_an_unknown_error_of_a_newer_peer_is_the_root_class() -> None:
    assert type(errors.from_wire("BrandNewError", "text")) is errors.PlutoDistError
