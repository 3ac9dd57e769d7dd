"""Stored API keys, for a user who has set none: that of `pluto login`, else a private file (G11)."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from pluto_dist.errors import KeyRefusedError, SettingError
from pluto_dist.secret import Secret

LOGIN_SERVICE: Final = "pluto"  # service and user name under which `pluto login` stores the key
LOGIN_PLACEHOLDER: Final = "_key"  # what it stores when it never got one
FILE_LIMIT: Final = 4096


class StoredKey(NamedTuple):
    """A key, and where it was found, for people."""

    key: Secret
    source: str


def stored_key(env: Mapping[str, str]) -> StoredKey | None:
    """The first key that is stored for this user; two failed opens if there is none.

    Args:
        env: HOME, XDG_DATA_HOME and XDG_CONFIG_HOME say where to look; without HOME nothing is looked at.

    Raises:
        SettingError: a source is there but unusable: the key is malformed, the file is open to others.
    """
    home = env.get("HOME")
    if not home:
        return None
    if sys.platform == "darwin":
        stored, source = _from_keychain(), "the keychain (`pluto login`)"
    else:
        login = login_path(Path(home), env.get("XDG_DATA_HOME"))
        stored, source = _from_login_file(login), f"{login} (`pluto login`)"
    if stored:
        return StoredKey(Secret(stored), source)
    path = key_path(Path(home), env.get("XDG_CONFIG_HOME"))
    own = _from_key_file(path)
    return None if own is None else StoredKey(own, str(path))


def key_refused(error: KeyRefusedError, server: str, source: str) -> KeyRefusedError:
    """The error for a refused key, with the server, the source of the key, and the way out.

    Args:
        error: as the server's answer became one.
        server: address that the key was sent to.
        source: where the key was found.
    """
    return KeyRefusedError(
        f"{error.message} (server {server}, key from {source or 'an unknown place'}). Give a key of this "
        "server: set PLUTO_API_KEY, or run `pluto login`. If you mean another server, name it by "
        "PLUTO_URL_API and its like or settings={'host': …}. PLUTO_DIST_MODE=local needs no key",
        **error.fields,
    )


def login_path(home: Path, xdg_data_home: str | None = None) -> Path:
    """The file of `pluto login` on Linux: that of the plain-text backend of `keyrings.alt`."""
    data_home = Path(xdg_data_home) if xdg_data_home else home / ".local" / "share"
    return data_home / "python_keyring" / "keyring_pass.cfg"


def key_path(home: Path, xdg_config_home: str | None = None) -> Path:
    """A file with nothing but the key, mode 0600."""
    return (Path(xdg_config_home) if xdg_config_home else home / ".config") / "pluto-dist" / "key"


def _from_login_file(path: Path) -> str | None:
    """Reads the file itself: no package is needed, and no desktop keyring asks for a password."""
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    import base64  # only where there is a login: init() without one stays as fast as it is
    import binascii
    import configparser

    entries = configparser.RawConfigParser()
    try:
        entries.read_string(text.decode())
        packed = entries.get(LOGIN_SERVICE, LOGIN_SERVICE, fallback="")
        stored = base64.b64decode("".join(packed.split()), validate=True).decode()
    except (configparser.Error, binascii.Error, UnicodeDecodeError):
        raise SettingError(
            f"the stored login in {path} cannot be read; run `pluto login` again or set PLUTO_API_KEY",
            setting="api_key",
            source=str(path),
        ) from None
    return stored if stored != LOGIN_PLACEHOLDER else None


def _from_keychain() -> str | None:
    try:
        import keyring
        import keyring.errors
    except ImportError:
        return None
    try:
        stored: str | None = keyring.get_password(LOGIN_SERVICE, LOGIN_SERVICE)
    except keyring.errors.KeyringError:
        return None
    return stored if stored != LOGIN_PLACEHOLDER else None


def _from_key_file(path: Path) -> Secret | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as fault:
        raise _file_error(path, fault.strerror or "cannot be opened") from None
    try:
        _check_private(path, os.fstat(descriptor))
        return Secret(os.read(descriptor, FILE_LIMIT).decode("ascii", "replace"))
    finally:
        os.close(descriptor)


def _check_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _file_error(path, "is no regular file")
    if status.st_uid != os.getuid():
        raise _file_error(path, f"belongs to user {status.st_uid}, not to {os.getuid()}")
    if status.st_mode & 0o077:
        raise _file_error(path, f"has mode {stat.S_IMODE(status.st_mode):04o}; run `chmod 600` on it")


def _file_error(path: Path, what: str) -> SettingError:
    return SettingError(f"API key file {path} {what}", setting="api_key", source=str(path))
