"""Client defects: what the real server accepts in silence. Kinds are numbers of the server contract.

6.3.1   ingest for no run, a non-numeric run id, or another project's run
6.3.2   ingest for a run that has ended
6.3.3   two writers gave one (name, step) different values
6.3.4   repeated rows or presigns, a presign without its PUT, a PUT of another size
6.3.5   a terminal status before the last data request finished, ignored, or contradicting an earlier one
6.3.6   tags removed that the sender never knew
6.3.7   a name never registered, or registered with another type
6.3.8   a run created without external id, or created again outside a race
6.3.9   a time in seconds or in the future
6.3.10  heartbeats: gap, after the end, more than one source
6.3.11  a control request whose content type is not JSON
6.3.12  an ended run reopened, and put back or left without anything done to it: somebody asked by writing
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

KINDS = tuple(f"6.3.{number}" for number in range(1, 13))


@dataclass(frozen=True, slots=True)
class Defect:
    """One finding. `names` are the metric, data or log names it is about; `request_id` is in the journal."""

    kind: str
    text: str
    run_id: int | None = None
    names: tuple[str, ...] = ()
    request_id: int | None = None
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Waiver:
    """Findings of a kind that are expected: by patterns of name and text, by run, or by a predicate."""

    kind: str
    name: str = "*"
    run_id: int | None = None
    text: str = "*"
    predicate: Callable[[Defect], bool] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no defect kind {self.kind!r}; use one of {', '.join(KINDS)}")

    def covers(self, defect: Defect, name: str | None) -> bool:
        """Whether this waiver takes the defect for one of its names (None: it has no names)."""
        return (
            self.kind == defect.kind
            and self.run_id in (None, defect.run_id)
            and fnmatchcase(defect.text, self.text)
            and (fnmatchcase(name, self.name) if name is not None else self.name == "*")
            and (self.predicate is None or self.predicate(defect))
        )


@dataclass(slots=True)
class DefectLog:
    """The findings, and those that were waived. A waiver counts for findings before it, too."""

    _all: list[Defect] = field(default_factory=list)
    _waivers: list[Waiver] = field(default_factory=list)

    def add(self, defect: Defect) -> None:
        """Record a finding."""
        self._all.append(defect)

    def waive(self, waiver: Waiver) -> None:
        """Expect findings like this."""
        self._waivers.append(waiver)

    def clear(self) -> None:
        """Forget the findings; waivers stay."""
        self._all.clear()

    def found(self, kinds: Iterable[str] | None = None) -> list[Defect]:
        """The findings that nothing waives, optionally of some kinds only."""
        wanted = None if kinds is None else set(kinds)
        return [d for d in self._all if (wanted is None or d.kind in wanted) and not self._waived(d)]

    def waived(self) -> list[Defect]:
        """The findings that a waiver covers."""
        return [defect for defect in self._all if self._waived(defect)]

    def _waived(self, defect: Defect) -> bool:
        # A request that mixes expected and unexpected names stays a finding.
        names: tuple[str | None, ...] = defect.names or (None,)
        return all(any(waiver.covers(defect, name) for waiver in self._waivers) for name in names)
