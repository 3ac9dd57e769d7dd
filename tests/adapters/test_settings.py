"""Settings: one reader of the environment, one frozen value, errors that say what and where."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pluto_dist.errors import SettingError
from pluto_dist.host.settings import (
    HOSTED,
    Settings,
    as_option,
    cluster_of,
    load,
    settings_keys,
    target_of,
    variables_of,
)
from pluto_dist.secret import Secret

KEY = "mlpi_0123456789abcdef"


def test_without_anything_records_stay_local():
    settings = load({})
    assert (settings.mode, settings.project, settings.api_key) == ("local", "pluto", None)
    assert (settings.exit_wait_s, settings.sigterm_wait_s, settings.open_wait_s) == (20.0, 10.0, 10.0)
    assert settings.notes == ()


def test_an_api_key_makes_auto_mode_pluto():
    assert load({"PLUTO_API_KEY": KEY}).mode == "pluto"


def test_windows_makes_auto_mode_disabled():
    """R13"""
    assert load({"PLUTO_API_KEY": KEY}, platform="win32").mode == "disabled"
    assert load({"PLUTO_DIST_MODE": "local"}, platform="win32").mode == "local"


@pytest.mark.parametrize(
    ("mode", "platform", "told"),
    [("auto", "win32", True), ("disabled", "win32", False), ("disabled", "linux", False)],
)
def test_who_did_not_ask_for_disabled_is_told_why(mode: str, platform: str, told: bool):
    """R13"""
    assert bool(load({"PLUTO_DIST_MODE": mode}, platform=platform).disabled_because) is told


def test_mode_pluto_without_a_key_is_refused_with_the_way_out():
    with pytest.raises(SettingError, match="PLUTO_API_KEY"):
        load({"PLUTO_DIST_MODE": "pluto"})


def test_an_argument_beats_the_environment_and_that_beats_the_default():
    env = {"PLUTO_PROJECT": "from-env", "PLUTO_DIST_QUIET": "1"}
    settings = load(env, {"project": "from-code", "strict": True, "quiet": None})
    assert (settings.project, settings.quiet, settings.strict) == ("from-code", True, True)


def test_an_empty_variable_counts_as_unset():
    assert load({"PLUTO_PROJECT": " ", "PLUTO_API_KEY": "", "PLUTO_DIST_MODE": ""}) == load({})


@pytest.mark.parametrize("key", settings_keys())
def test_every_setting_has_exactly_one_current_variable(key: str):
    current = variables_of(key)[0]
    assert current in {f"PLUTO_{key.upper()}", f"PLUTO_DIST_{key.upper()}"}
    assert key in Settings.__struct_fields__


def test_every_field_can_be_set():
    assert set(settings_keys()) == set(Settings.__struct_fields__) - {
        "notes",
        "left_out",
        "disabled_because",
        "key_source",
    }


@pytest.mark.parametrize(
    ("name", "value", "key", "expected"),
    [
        ("PLUTO_DIST_EXIT_WAIT_S", "7.5", "exit_wait_s", 7.5),
        ("PLUTO_DIST_SPOOL_QUOTA", "8 MiB", "spool_quota", 8 << 20),
        ("PLUTO_DIST_SPOOL_QUOTA", "2G", "spool_quota", 2 << 30),
        ("PLUTO_DIST_SEGMENT_SIZE", "65536", "segment_size", 65536),
        ("PLUTO_DIST_RETENTION_SEGMENTS", "16", "retention_segments", 16),
        ("PLUTO_DIST_REQUIRED", "Yes", "required", True),
        ("PLUTO_DIST_QUIET", "off", "quiet", False),
        ("PLUTO_DIST_DURABILITY", "machine", "durability", "machine"),
        ("PLUTO_DIST_CONSOLE", "FD", "console", "fd"),
        ("PLUTO_DIST_RANK_METRICS", "rank0", "rank_metrics", "rank0"),
        ("PLUTO_DIST_REDUCE", "loss = mean, tokens=sum", "reduce", "loss=mean,tokens=sum"),
        ("PLUTO_DIST_SYSTEM_METRICS_S", "0", "system_metrics_s", 0.0),
        ("PLUTO_DIST_HOME", "/scratch/me", "home", Path("/scratch/me")),
        ("PLUTO_RUN_ID", "MMP-42", "run_id", "MMP-42"),
        ("PLUTO_DIR", "out", "dir", Path("out")),
        ("PLUTO_URL_API", "http://localhost:3001/", "url_api", "http://localhost:3001"),
    ],
)
def test_values_are_read_from_text(name: str, value: str, key: str, expected: object):
    assert getattr(load({name: value}), key) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PLUTO_DIST_EXIT_WAIT_S", "soon"),
        ("PLUTO_DIST_EXIT_WAIT_S", "nan"),
        ("PLUTO_DIST_EXIT_WAIT_S", "-1"),
        ("PLUTO_DIST_SPOOL_QUOTA", "many"),
        ("PLUTO_DIST_SPOOL_QUOTA", "3"),
        ("PLUTO_DIST_RETENTION_SEGMENTS", "1"),
        ("PLUTO_DIST_RETENTION_SEGMENTS", "2.5"),
        ("PLUTO_DIST_REQUIRED", "maybe"),
        ("PLUTO_DIST_MODE", "online"),
        ("PLUTO_DIST_HOME", "relative/folder"),
        ("PLUTO_URL_API", "pluto.example.com"),
        ("PLUTO_URL_API", "http://host:port/"),
        ("PLUTO_URL_API", "http://host/?q=1"),
        ("PLUTO_DIST_HOST", "http://localhost"),
        ("PLUTO_PROJECT", "p" * 256),
        ("PLUTO_RUN_ID", "0"),
        ("PLUTO_DIST_REDUCE", "loss=median"),
    ],
)
def test_an_unusable_value_is_named_with_its_source_and_what_is_allowed(name: str, value: str):
    with pytest.raises(SettingError) as caught:
        load({name: value})
    assert name in caught.value.message
    assert value[:100] in caught.value.message
    assert "allowed: " in caught.value.message
    assert caught.value.fields["source"] == f"environment variable {name}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("exit_wait_s", True),
        ("spool_quota", 1.5),
        ("url_api", 3),
        ("run_id", True),
        ("reduce", {"a,b": "sum"}),
    ],
)
def test_an_argument_of_the_wrong_type_is_refused(key: str, value: object):
    with pytest.raises(SettingError, match=rf"init\(settings=\{{'{key}'"):
        load({}, {key: value})


def test_an_error_names_the_call_that_was_made():
    """A person who typed an option, or called attach(), has never written init(settings=…)."""
    for overrides, says in (
        ({"dir": 3}, "setting dir = '3' from option --dir"),
        ({"x_y": 3}, "option --x-y: "),
    ):
        with pytest.raises(SettingError, match=says):
            load({}, overrides, source=as_option)


def test_where_the_mode_is_disabled_nothing_else_is_refused():
    """R13: it never fails; what can be used is taken."""
    env = {"PLUTO_DIST_MODE": "disabled", "PLUTO_DIST_EXIT_WAIT_S": "20s", "PLUTO_PROJECT": "mine"}
    settings = load(env, {"heartbeat": 1, "run_id": 1.5})
    assert (settings.mode, settings.project, settings.exit_wait_s) == ("disabled", "mine", 20.0)
    assert load({"PLUTO_DIST_EXIT_WAIT_S": "20s"}, platform="win32").mode == "disabled"
    with pytest.raises(SettingError, match="mode"):
        load({"PLUTO_DIST_MODE": "disable"})


def test_an_unknown_argument_is_refused_with_near_matches():
    with pytest.raises(SettingError, match="did you mean exit_wait_s"):
        load({}, {"exit_wait": 3})


def test_a_misspelt_variable_is_a_remark_because_a_newer_version_may_know_it():
    assert "did you mean PLUTO_DIST_EXIT_WAIT_S?" in load({"PLUTO_DIST_EXIT_WAIT": "3"}).notes[0]


def test_keys_of_the_official_client_are_noted_and_ignored():
    settings = load({}, {"x_log_level": 10, "sync_process_batch_size": 5})
    assert len(settings.notes) == 2
    assert settings == msgspec.structs.replace(load({}), notes=settings.notes)


@pytest.mark.parametrize(
    ("official", "key", "expected"),
    [
        ({"sync_process_enabled": False, "mode": "perf"}, "mode", "local"),
        ({"mode": "noop"}, "mode", "disabled"),
        ({"mode": "debug"}, "mode", "pluto"),
        ({"disable_system_metrics": True, "x_sys_sampling_interval": 4}, "system_metrics_s", 0.0),
        ({"x_sys_sampling_interval": 4}, "system_metrics_s", 4.0),
        ({"disable_console": True}, "console", "off"),
        ({"_auth": "other"}, "api_key", Secret("other")),
        ({"_auth": None}, "api_key", Secret(KEY)),
    ],
)
def test_what_the_official_client_was_told_not_to_do_is_kept(official: dict, key: str, expected: object):
    assert getattr(load({"PLUTO_API_KEY": KEY}, official), key) == expected


def test_deprecated_variables_work_and_are_noted():
    settings = load({"MLOP_API_TOKEN": KEY, "MLOP_PROJECT": "old", "PLUTO_PROJECT": "new"})
    assert (settings.api_key, settings.project) == (Secret(KEY), "new")
    assert settings.notes == ("environment variable MLOP_API_TOKEN is deprecated; use PLUTO_API_KEY",)


def test_a_host_overrides_all_four_addresses():
    settings = load({"PLUTO_URL_API": "http://elsewhere:1"}, {"host": "10.0.0.7"})
    assert settings.url_app == "http://10.0.0.7:3000"
    assert settings.url_api == "http://10.0.0.7:3001"
    assert settings.url_ingest == "http://10.0.0.7:3003"
    assert settings.url_py == "http://10.0.0.7:3004"


def test_one_address_leaves_the_others_hosted():
    settings = load({"PLUTO_URL_INGEST": "http://elsewhere:1"})
    assert (settings.url_ingest, settings.url_api) == ("http://elsewhere:1", HOSTED["url_api"])


def test_the_key_is_never_shown():
    """G11"""
    settings = load({"PLUTO_API_KEY": KEY})
    target = target_of(settings, Path("/data/.pluto"))
    for shown in (
        repr(settings),
        str(settings.api_key),
        f"{settings.api_key}",
        repr(target),
        repr([settings]),
    ):
        assert KEY not in shown
    for leak in (msgspec.json.encode, msgspec.msgpack.encode, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(settings)


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [("PLUTO_API_KEY", "mlpi_two words", "two words"), ("PLUTO_URL_PY", "http://me:hunter2@host", "hunter2")],
)
def test_errors_do_not_show_secrets(name: str, value: str, secret: str):
    """G11"""
    with pytest.raises(SettingError) as caught:
        load({name: value})
    assert secret not in f"{caught.value} {caught.value.fields} {caught.value.__cause__}"


def test_targets_tell_keys_apart_without_showing_them():
    """G11"""
    store = Path("/data/.pluto")
    first, second = (target_of(load({"PLUTO_API_KEY": key}), store) for key in ("key-one", "key-two"))
    assert first.key_id != second.key_id
    assert first == target_of(load({"PLUTO_API_KEY": "key-one"}), store)
    assert target_of(load({}), store) == msgspec.structs.replace(
        first, mode="local", url_api="", url_ingest="", url_py="", url_app="", key_id=""
    )


def test_a_disabled_process_has_no_target():
    with pytest.raises(SettingError, match="disabled"):
        target_of(load({"PLUTO_DIST_MODE": "disabled"}), Path("/data"))


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        load({}).project = "other"


def test_reading_settings_loads_nothing_heavy():
    """What a trainer imports stays light."""
    code = "import sys; import pluto_dist.host.settings; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-S", "-c", code], check=False, env=_with_path(), capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert not {"httpx", "psutil", "zmq", "sqlite3", "rich"} & set(found.stdout.split())


def _with_path() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(path for path in sys.path if path)}


@pytest.mark.parametrize(
    ("url", "members", "prefix"),
    [
        ("etcd://h1:2379,h2:2379/jobs", ("http://h1:2379", "http://h2:2379"), "jobs"),
        ("etcds://h1", ("https://h1:2379",), "pluto_dist"),
        ("etcd://[::1]:99/a/b/", ("http://[::1]:99",), "a/b"),
    ],
)
def test_the_address_of_a_cluster_store(url: str, members: tuple[str, ...], prefix: str):
    found = cluster_of(load({"PLUTO_DIST_CLUSTER": url}))
    assert found is not None
    assert (found.members, found.prefix) == (members, prefix)


def test_without_an_address_there_is_no_cluster_store():
    assert cluster_of(load({})) is None
    assert cluster_of(load({"PLUTO_DIST_CLUSTER": "off"})) is None


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("etcd://me:geheim@h1:2379", "PLUTO_DIST_CLUSTER_PASSWORD_FILE"),
        ("http://h1:2379", "scheme"),
        ("etcd://h1:notaport", "port"),
        ("etcd://", "host:port"),
        ("k8s://", "etcd"),
        ("etcd://h1/a b", "prefix"),
        ("etcd://h1?x=1", "query"),
    ],
)
def test_an_address_that_cannot_be_used_is_an_error_that_says_why(url: str, told: str):
    """G11: a password in the address is an error, and is not shown."""
    with pytest.raises(SettingError) as caught:
        load({"PLUTO_DIST_CLUSTER": url})
    assert told in caught.value.message
    assert "geheim" not in caught.value.message
    assert "PLUTO_DIST_CLUSTER" in caught.value.message


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"PLUTO_DIST_CLUSTER_USER": "me"}, "cluster_password_file"),
        ({"PLUTO_DIST_CLUSTER_PASSWORD_FILE": "/dev/null"}, "cluster_user"),
        ({"PLUTO_DIST_CLUSTER_CA": "/dev/null"}, "etcds://"),
        ({"PLUTO_DIST_CLUSTER_USER": "me", "PLUTO_DIST_CLUSTER_PASSWORD_FILE": "/none"}, "/none"),
    ],
)
def test_companions_of_the_address_that_do_not_fit(more: dict[str, str], told: str):
    with pytest.raises(SettingError) as caught:
        cluster_of(load({"PLUTO_DIST_CLUSTER": "etcd://h1", **more}))
    assert told in caught.value.message
