"""Every error a caller can get, split by what the caller can do.

    PlutoDistError
    ├── UsageError                 mend the call
    │   ├── ArgumentError          … an argument of init(), attach(), finish() and their like
    │   ├── InvalidRecordError     … what was passed to log(), config or tags
    │   ├── MissingPackageError    … an optional package is not installed
    │   ├── SettingError           … a setting; names it, its value and where it came from
    │   └── RunEndedError          … a call after the end: changes with strict, questions always
    ├── ClaimError                 the Run is not yours as asked; choose another id, role or verb
    │   ├── RunNotFoundError
    │   ├── RunExistsError
    │   ├── OwnerExistsError
    │   ├── FinishReservedError
    │   ├── AmbiguousRunError
    │   ├── ForkError
    │   └── StaleEpochError
    ├── MachineError               mend the machine or the settings
    │   ├── PlacesError            … no usable folder for runtime, spool or store
    │   ├── SocketPathError        … too long for the platform
    │   ├── CoordinatorUnavailableError
    │   ├── ClusterUnavailableError … the store that the nodes of a job share cannot be read
    │   └── VersionMismatchError
    ├── ServerError                the Pluto server said no
    │   ├── KeyRefusedError
    │   └── ServerRefusedError
    ├── ArtifactError              a file's content cannot be had, or is not the one that was logged
    ├── ProtocolError              a malformed or oversized message
    └── WaitTimeoutError           something took longer than the caller allowed; nothing is lost

Errors travel between processes as (code, message, fields); `from_wire` builds the same class again. All are
picklable.

Each is also what the official client raises in its place, so that an `except` in a script goes on working:
ClaimError and ServerError are RuntimeErrors, ForkError is a ValueError as well.
"""

from __future__ import annotations

from typing import ClassVar


class PlutoDistError(Exception):
    """Root of the tree.

    Attributes:
        message: what happened, with which value, and what to do.
        fields: the same facts for programs, JSON values only.
    """

    _by_code: ClassVar[dict[str, type[PlutoDistError]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        PlutoDistError._by_code[cls.__name__] = cls

    def __init__(self, message: str, **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields

    def __reduce__(self) -> tuple[object, ...]:
        return (from_wire, (type(self).__name__, self.message, self.fields))

    @property
    def code(self) -> str:
        """Name of the class: stable, used on the wire."""
        return type(self).__name__


class UsageError(PlutoDistError):
    """The call is wrong as it stands."""


class ArgumentError(UsageError, ValueError):
    """An argument of a call cannot be meant; nothing was opened or changed."""


class InvalidRecordError(UsageError, ValueError):
    """A value, key, step or tag that cannot be logged."""


class MissingPackageError(UsageError, ImportError):
    """A value needs a package that is not installed; the message names it."""


class SettingError(UsageError, ValueError):
    """A setting has an unusable value."""


class RunEndedError(UsageError):
    """The Run has ended for this process."""


class ClaimError(PlutoDistError, RuntimeError):
    """The Run cannot be had as asked; nothing was changed."""


class RunNotFoundError(ClaimError):
    """No Run has this id."""


class RunExistsError(ClaimError):
    """A Run with this id exists and `resume` was not given."""


class OwnerExistsError(ClaimError):
    """A live process owns the Run."""


class FinishReservedError(ClaimError):
    """Only the owner may finish (strict only)."""


class AmbiguousRunError(ClaimError):
    """The id, or its absence, fits several Runs."""


class ForkError(ClaimError, ValueError):
    """Parent or step of a fork do not fit."""


class StaleEpochError(ClaimError):
    """A newer owner or a restart of the job has replaced this lease."""


class MachineError(PlutoDistError):
    """The machine does not offer what is needed."""


class PlacesError(MachineError, OSError):
    """No usable folder for runtime, spool or store."""


class SocketPathError(MachineError):
    """The socket's path is longer than the platform allows."""


class CoordinatorUnavailableError(MachineError):
    """The coordinator could not be started or does not answer."""


class ClusterUnavailableError(MachineError):
    """The cluster store cannot be read from here; says why, and the way out."""


class VersionMismatchError(MachineError):
    """Client and coordinator have different protocol versions."""


class ServerError(PlutoDistError, RuntimeError):
    """The Pluto server refused."""


class KeyRefusedError(ServerError):
    """The API key is missing, unknown, expired or revoked."""


class ServerRefusedError(ServerError):
    """The server refused for another reason, for instance an organisation at its limit."""


class ArtifactError(PlutoDistError):
    """An artifact's content cannot be had, or is not the one that was logged."""


class ProtocolError(PlutoDistError):
    """A message could not be understood."""


class WaitTimeoutError(PlutoDistError, TimeoutError):
    """A bounded wait ran out; what was logged is on disk and will be delivered."""


def from_wire(code: str, message: str, fields: dict[str, object] | None = None) -> PlutoDistError:
    """The error that `code` names; an unknown code of a newer peer becomes the root class."""
    return PlutoDistError._by_code.get(code, PlutoDistError)(message, **(fields or {}))
