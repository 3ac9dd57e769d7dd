"""The API key shows itself to nobody (G11) and comes from the first source there is."""

import base64
import os
import pickle  # noqa: TID251 - to see that a key cannot be
import sys
from pathlib import Path

import pytest

from pluto_dist.errors import SettingError
from pluto_dist.host.credentials import key_path, login_path, stored_key
from pluto_dist.host.settings import load
from pluto_dist.secret import Secret

KEY = "mlps_SECRET"


def write_key_file(home: Path, content: str = KEY + "\n", mode: int = 0o600) -> Path:
    path = key_path(home)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    path.chmod(mode)
    return path


def write_login(home: Path, key: str) -> None:
    packed = base64.encodebytes(key.encode()).decode().replace("\n", "\n\t")
    write_login_text(home, f"[pluto]\npluto = \n\t{packed}\n")


def write_login_text(home: Path, text: str) -> None:
    path = login_path(home)
    path.parent.mkdir(parents=True)
    path.write_text(text)


def env_of(home: Path) -> dict[str, str]:
    return {"HOME": str(home)}


def test_secret_shows_itself_only_on_request() -> None:
    """G11"""
    secret = Secret(f" {KEY}\n")
    assert secret.reveal() == KEY
    for text in (repr(secret), str(secret), f"{secret}", repr({"key": secret}), secret.digest):
        assert "SECRET" not in text


def test_secret_is_not_pickled() -> None:
    """G11"""
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(Secret(KEY))


def test_key_ids_tell_keys_apart() -> None:
    assert Secret(KEY).digest == Secret(KEY).digest
    assert Secret(KEY).digest != Secret(KEY + "2").digest
    assert Secret(KEY) == Secret(KEY)
    assert len({Secret(KEY), Secret(KEY), Secret("other")}) == 2


@pytest.mark.parametrize("value", ["", "  ", "mlps_SEC RET", "mlps_SECRÉT", "mlps_SECRET\r\nX-Evil: 1"])
def test_malformed_key_is_refused_without_showing_it(value: str) -> None:
    """G11: such a key would end up in an error of the HTTP library."""
    with pytest.raises(SettingError) as caught:
        Secret(value)
    assert "SEC" not in str(caught.value)


def test_setting_comes_before_what_is_stored(tmp_path: Path) -> None:
    write_key_file(tmp_path, "from_file")
    settings = load(env_of(tmp_path) | {"PLUTO_API_KEY": KEY})
    assert settings.api_key == Secret(KEY)
    assert settings.key_source == "environment variable PLUTO_API_KEY"


def test_stored_key_makes_auto_mode_pluto(tmp_path: Path) -> None:
    write_key_file(tmp_path)
    settings = load(env_of(tmp_path))
    assert (settings.mode, settings.api_key) == ("pluto", Secret(KEY))


def test_stored_key_is_not_looked_at_in_local_mode(tmp_path: Path) -> None:
    """Its file would be refused: it is open to others."""
    write_key_file(tmp_path, mode=0o644)
    settings = load(env_of(tmp_path) | {"PLUTO_DIST_MODE": "local"})
    assert (settings.mode, settings.api_key) == ("local", None)


@pytest.mark.skipif(sys.platform == "darwin", reason="the keychain has it there")
def test_stored_login_of_the_official_client_is_used(tmp_path: Path) -> None:
    write_login(tmp_path, "mlps_" + "x" * 100)
    write_key_file(tmp_path, "from_file")
    login = login_path(tmp_path)
    assert stored_key(env_of(tmp_path)) == (Secret("mlps_" + "x" * 100), f"{login} (`pluto login`)")


@pytest.mark.skipif(sys.platform == "darwin", reason="the keychain has it there")
@pytest.mark.parametrize("stored", ["", "_key"])
def test_login_without_a_key_is_none(tmp_path: Path, stored: str) -> None:
    write_login(tmp_path, stored)
    assert stored_key(env_of(tmp_path)) is None


@pytest.mark.skipif(sys.platform == "darwin", reason="the keychain has it there")
@pytest.mark.parametrize("content", ["no section", "[pluto]\npluto = %%%\n", "[pluto]\npluto = //79\n"])
def test_damaged_login_is_an_error_with_a_way_out(tmp_path: Path, content: str) -> None:
    write_login_text(tmp_path, content)
    with pytest.raises(SettingError, match="pluto login"):
        stored_key(env_of(tmp_path))


def test_no_source_means_no_key(tmp_path: Path) -> None:
    assert stored_key(env_of(tmp_path)) is None
    assert stored_key({}) is None


def test_private_key_file_is_used(tmp_path: Path) -> None:
    write_key_file(tmp_path)
    assert stored_key(env_of(tmp_path)) == (Secret(KEY), str(key_path(tmp_path)))
    assert load(env_of(tmp_path)).key_source == str(key_path(tmp_path))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_key_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    """G11"""
    write_key_file(tmp_path, mode=mode)
    with pytest.raises(SettingError, match="chmod 600") as caught:
        stored_key(env_of(tmp_path))
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_key_file_of_another_kind_is_refused(tmp_path: Path, kind: str) -> None:
    """G11: no symlink tricks, and a pipe does not hang the caller."""
    path = write_key_file(tmp_path)
    real = path.rename(path.with_name("real"))
    if kind == "link":
        path.symlink_to(real)
    elif kind == "pipe":
        os.mkfifo(path, 0o600)
    else:
        path.mkdir(0o700)
    with pytest.raises(SettingError):
        stored_key(env_of(tmp_path))


def test_places_follow_the_users_own_folders() -> None:
    assert login_path(Path("/h")) == Path("/h/.local/share/python_keyring/keyring_pass.cfg")
    assert login_path(Path("/h"), "/x") == Path("/x/python_keyring/keyring_pass.cfg")
    assert key_path(Path("/h")) == Path("/h/.config/pluto-dist/key")
    assert key_path(Path("/h"), "/x") == Path("/x/pluto-dist/key")
