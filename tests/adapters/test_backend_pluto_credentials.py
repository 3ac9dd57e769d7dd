"""The API key shows itself to nobody (G11) and comes from the first source there is."""

import base64
import os
import pickle  # noqa: TID251 - to see that a key cannot be
import sys
from pathlib import Path

import pytest

from pluto_dist.backend.pluto.credentials import Secret, find_key, login_path
from pluto_dist.errors import SettingError

KEY = "mlps_SECRET"


def write_key_file(path: Path, content: str = KEY + "\n", mode: int = 0o600) -> Path:
    path.write_text(content)
    path.chmod(mode)
    return path


def write_login(path: Path, key: str) -> Path:
    packed = base64.encodebytes(key.encode()).decode().replace("\n", "\n\t")
    path.write_text(f"[pluto]\npluto = \n\t{packed}\n")
    return path


def test_secret_shows_itself_only_on_request() -> None:
    """G11"""
    secret = Secret(f" {KEY}\n")
    assert secret.reveal() == KEY
    for text in (repr(secret), str(secret), f"{secret}", repr({"key": secret}), secret.key_id()):
        assert "SECRET" not in text


def test_secret_is_not_pickled() -> None:
    """G11"""
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(Secret(KEY))


def test_key_ids_tell_keys_apart() -> None:
    assert Secret(KEY).key_id() == Secret(KEY).key_id()
    assert Secret(KEY).key_id() != Secret(KEY + "2").key_id()
    assert Secret(KEY) == Secret(KEY)
    assert len({Secret(KEY), Secret(KEY), Secret("other")}) == 2


@pytest.mark.parametrize("value", ["", "  ", "mlps_SEC RET", "mlps_SECRÉT", "mlps_SECRET\r\nX-Evil: 1"])
def test_malformed_key_is_refused_without_showing_it(value: str) -> None:
    """G11: such a key would end up in an error of the HTTP library."""
    with pytest.raises(SettingError) as caught:
        Secret(value)
    assert "SEC" not in str(caught.value)


def test_setting_comes_first(tmp_path: Path) -> None:
    key_file = write_key_file(tmp_path / "key", "from_file")
    assert find_key(KEY, login_file=None, key_file=key_file) == Secret(KEY)


@pytest.mark.skipif(sys.platform == "darwin", reason="the keychain has it there")
def test_stored_login_of_the_official_client_is_used(tmp_path: Path) -> None:
    login = write_login(tmp_path / "keyring_pass.cfg", "mlps_" + "x" * 100)
    key_file = write_key_file(tmp_path / "key", "from_file")
    assert find_key(None, login_file=login, key_file=key_file) == Secret("mlps_" + "x" * 100)


@pytest.mark.skipif(sys.platform == "darwin", reason="the keychain has it there")
@pytest.mark.parametrize("stored", ["", "_key"])
def test_login_without_a_key_is_none(tmp_path: Path, stored: str) -> None:
    login = write_login(tmp_path / "keyring_pass.cfg", stored)
    assert find_key(None, login_file=login, key_file=None) is None


@pytest.mark.skipif(sys.platform == "darwin", reason="the keychain has it there")
@pytest.mark.parametrize("content", ["no section", "[pluto]\npluto = %%%\n", "[pluto]\npluto = //79\n"])
def test_damaged_login_is_an_error_with_a_way_out(tmp_path: Path, content: str) -> None:
    login = tmp_path / "keyring_pass.cfg"
    login.write_text(content)
    with pytest.raises(SettingError, match="pluto login"):
        find_key(None, login_file=login, key_file=None)


def test_no_source_means_no_key(tmp_path: Path) -> None:
    assert find_key(None, login_file=tmp_path / "no", key_file=tmp_path / "none") is None
    assert find_key("", login_file=None, key_file=None) is None


def test_private_key_file_is_used(tmp_path: Path) -> None:
    assert find_key(None, login_file=None, key_file=write_key_file(tmp_path / "key")) == Secret(KEY)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_key_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    """G11"""
    key_file = write_key_file(tmp_path / "key", mode=mode)
    with pytest.raises(SettingError, match="chmod 600") as caught:
        find_key(None, login_file=None, key_file=key_file)
    assert "SECRET" not in str(caught.value)


def test_key_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    """G11: no symlink tricks, and a pipe does not hang the caller."""
    link = tmp_path / "link"
    link.symlink_to(write_key_file(tmp_path / "key"))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (link, pipe, tmp_path):
        with pytest.raises(SettingError):
            find_key(None, login_file=None, key_file=path)


def test_login_path_follows_the_data_home() -> None:
    assert login_path(Path("/h")) == Path("/h/.local/share/python_keyring/keyring_pass.cfg")
    assert login_path(Path("/h"), "/x") == Path("/x/python_keyring/keyring_pass.cfg")
