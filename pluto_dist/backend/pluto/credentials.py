"""The API key: where it comes from, and a value that does not show itself.

Order: the setting, then what the official client's `pluto login` stored, then a file of the user's own. The
key is passed on as `Secret`; nothing but `reveal()` gives it away, and only the HTTP edge calls that.
"""

from __future__ import annotations

import base64
import binascii
import configparser
import hashlib
import os
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn, Protocol

from pluto_dist.errors import SettingError

LOGIN_SERVICE: Final = "pluto"  # service and user name under which `pluto login` stores the key
LOGIN_PLACEHOLDER: Final = "_key"  # what it stores when it never got one
FILE_LIMIT: Final = 4096

_KEY = re.compile(r"[\x21-\x7e]+")


class Secret:
    """An API key that prints as `***` and cannot be pickled."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        value = value.strip()
        if not _KEY.fullmatch(value):
            raise SettingError(
                f"the API key ({len(value)} characters) is empty or has other than visible ASCII characters; "
                "copy it again from the server's key page",
                setting="api_key",
            )
        self._value = value

    def reveal(self) -> str:
        """The key itself, for the request header only."""
        return self._value

    def key_id(self) -> str:
        """Short digest that tells keys apart and leads back to none."""
        return hashlib.blake2s(self._value.encode(), digest_size=6, person=b"pluto-id").hexdigest()

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an API key is not pickled")


class ApiKey(Protocol):
    """What a request needs of a key."""

    def reveal(self) -> str:
        """The key itself: visible ASCII characters."""
        ...


KeyProvider = Callable[[], ApiKey | None]


def find_key(setting: str | None, *, login_file: Path | None, key_file: Path | None) -> Secret | None:
    """The first key there is.

    Args:
        setting: the value of the `api_key` setting.
        login_file: where `pluto login` stores it, see `login_path`; not used on macOS, whose keychain has it.
        key_file: a file with nothing but the key.

    Raises:
        SettingError: a source is there but unusable: the key is malformed, the file is open to others.
    """
    if setting:
        return Secret(setting)
    if sys.platform == "darwin":
        stored = _from_keychain()
    else:
        stored = _from_login_file(login_file) if login_file else None
    if stored:
        return Secret(stored)
    return _from_key_file(key_file) if key_file else None


def login_path(home: Path, xdg_data_home: str | None = None) -> Path:
    """Where `pluto login` stores the key on Linux: the plain-text backend of `keyrings.alt`."""
    data_home = Path(xdg_data_home) if xdg_data_home else home / ".local" / "share"
    return data_home / "python_keyring" / "keyring_pass.cfg"


def _from_login_file(path: Path) -> str | None:
    """Reads the file itself: no package is needed, and no desktop keyring asks for a password."""
    entries = configparser.RawConfigParser()
    try:
        entries.read_string(path.read_text(encoding="utf-8"))
        packed = entries.get(LOGIN_SERVICE, LOGIN_SERVICE, fallback="")
        stored = base64.b64decode("".join(packed.split()), validate=True).decode()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
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
