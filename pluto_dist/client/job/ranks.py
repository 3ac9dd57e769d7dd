"""The rank of a process, from the variables that launchers put into the environment.

A family is one launcher's set of variables. Several can be there at once: a script that sets `RANK` from
`SLURM_PROCID` has two that agree, a rank below `srun torchrun` has two of different levels. The first family
of the table that is complete gives the rank; the others that agree with it fill what it leaves open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

FamilyName = Literal[
    "torchelastic", "env", "node", "openmpi", "pmix", "pmi", "slurm", "script", "group", "submitit"
]

_HIGHEST_STEP = 0xFFFFFFF0  # above it SLURM numbers batch scripts, extern steps and interactive shells
_STEPS_WITHOUT_RANKS = ("batch", "extern", "interactive")


class Family(msgspec.Struct, frozen=True):
    """Variables of one launcher; of alternatives the first that is set counts.

    Attributes:
        nodes: how many nodes there are.
        here: how many ranks this node has, which gives the number of nodes where they are alike.
        needs: variables that must be set too; otherwise the others belong to something else.
    """

    name: FamilyName
    rank: str
    world: tuple[str, ...] = ()
    local: tuple[str, ...] = ()
    node: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    here: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def naming(self) -> tuple[str, ...]:
        """The variables that together say which rank of which job."""
        return (self.rank, *self.world, *self.needs)


FAMILIES = (
    Family(
        "torchelastic",
        "RANK",
        ("WORLD_SIZE",),
        ("LOCAL_RANK",),
        ("GROUP_RANK",),
        ("GROUP_WORLD_SIZE",),
        ("LOCAL_WORLD_SIZE",),
        needs=("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "WORLD_SIZE"),
    ),
    # RANK alone is also a popular name for other things
    Family(
        "env",
        "RANK",
        ("WORLD_SIZE",),
        ("LOCAL_RANK",),
        ("GROUP_RANK", "NODE_RANK"),
        ("NUM_NODES", "NNODES"),
        ("LOCAL_WORLD_SIZE",),
        needs=("WORLD_SIZE",),
    ),
    # one process on each node (Konduktor): RANK counts nodes
    Family(
        "node",
        "RANK",
        ("NUM_NODES",),
        node=("RANK",),
        nodes=("NUM_NODES",),
        needs=("NUM_NODES", "MASTER_ADDR"),
    ),
    # MPI before SLURM: mpirun starts its daemons on other nodes by srun, and its ranks inherit their numbers
    Family(
        "openmpi",
        "OMPI_COMM_WORLD_RANK",
        ("OMPI_COMM_WORLD_SIZE",),
        ("OMPI_COMM_WORLD_LOCAL_RANK",),
        here=("OMPI_COMM_WORLD_LOCAL_SIZE",),
    ),
    Family("pmix", "PMIX_RANK"),
    Family(
        "pmi",
        "PMI_RANK",
        ("PMI_SIZE",),
        ("MPI_LOCALRANKID", "PMI_LOCAL_RANK"),
        here=("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"),
    ),
    Family(
        "slurm",
        "SLURM_PROCID",
        ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
        ("SLURM_LOCALID",),
        ("SLURM_NODEID",),
        ("SLURM_STEP_NUM_NODES", "SLURM_JOB_NUM_NODES", "SLURM_NNODES"),
        needs=("SLURM_STEP_ID",),
    ),
    # its local executor, which starts a task again that asks for it; on a cluster SLURM gives the ranks
    Family(
        "submitit",
        "SUBMITIT_LOCAL_GLOBALID",
        ("SUBMITIT_LOCAL_NTASKS",),
        ("SUBMITIT_LOCAL_LOCALID",),
        ("SUBMITIT_LOCAL_NODEID",),
        ("SUBMITIT_LOCAL_JOB_NUM_NODES",),
        needs=("SUBMITIT_LOCAL_JOB_ID",),
    ),
    # a script that starts its own peers and is rank 0 itself (Lightning); on one node, since without RANK a
    # second node's ranks cannot be numbered
    Family("script", "LOCAL_RANK", ("WORLD_SIZE",), ("LOCAL_RANK",), ("NODE_RANK",), needs=("WORLD_SIZE",)),
)

RANK_VARIABLES = frozenset(name for family in FAMILIES for name in family.naming)


class Coordinates(msgspec.Struct, frozen=True):
    """The place of one process in its job.

    Attributes:
        family: where the rank was read.
        nodes: how many nodes the job spans, None if no variable says.
        agreeing: families that name the same place, `family` among them.
        attempt: which restart of the launcher; 0 for launchers that do not restart.
        max_restarts: how many it may make.
        step: SLURM step with ranks that the process is in.
    """

    family: Family
    rank: int
    world_size: int | None = None
    local_rank: int | None = None
    node_rank: int | None = None
    nodes: int | None = None
    agreeing: tuple[Family, ...] = ()
    attempt: int = 0
    max_restarts: int = 0
    step: int | None = None


def read_ranks(env: Mapping[str, str]) -> tuple[Coordinates | None, tuple[str, ...]]:
    """The rank by the first family that is complete, with what the agreeing ones add.

    Returns:
        The place, None for a process without ranks, and what was ignored, with the variable's name.
    """
    reader = _Reader(env)
    places = [place for family in FAMILIES if (place := reader.place(family)) is not None]
    return _merged(places, reader), tuple(reader.warnings.values())


def place_in_group(rank: int, world_size: int) -> Coordinates:
    """The place in a process group that the script has made; no variable says anything of it."""
    return Coordinates(Family("group", ""), rank, world_size)


def _merged(places: Sequence[Coordinates], reader: _Reader) -> Coordinates | None:
    if not places:
        return None
    agreeing = [place for place in places if _agree(place, places[0])]
    elastic = places[0].family.name == "torchelastic"
    return Coordinates(
        family=places[0].family,
        rank=places[0].rank,
        world_size=_first(place.world_size for place in agreeing),
        local_rank=_first(place.local_rank for place in agreeing),
        node_rank=_first(place.node_rank for place in agreeing),
        nodes=_first(place.nodes for place in agreeing),
        agreeing=tuple(place.family for place in agreeing),
        attempt=(reader.number("TORCHELASTIC_RESTART_COUNT") or 0) if elastic else 0,
        max_restarts=(reader.number("TORCHELASTIC_MAX_RESTARTS") or 0) if elastic else 0,
        step=reader.step(),
    )


def _agree(one: Coordinates, other: Coordinates) -> bool:
    sizes = {one.world_size, other.world_size} - {None}
    return one.rank == other.rank and len(sizes) <= 1


def _first(values: Iterable[int | None]) -> int | None:
    return next((value for value in values if value is not None), None)


class _Reader:
    """Reads numbers from an environment; what cannot be one is ignored and named in `warnings`."""

    __slots__ = ("_env", "warnings")

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self.warnings: dict[str, str] = {}

    def number(self, *names: str) -> int | None:
        """The number in the first of the variables that is set."""
        name = next((name for name in names if self._env.get(name)), None)
        if name is None:
            return None
        text = self._env[name].strip()
        if text.isascii() and text.isdecimal() and len(text) <= 10:
            return int(text)
        self.warnings[name] = f"{name} is {text[:40]!r}, which is no whole number from 0 on; it is ignored"
        return None

    def step(self) -> int | None:
        """The number of the SLURM step, if it is one with ranks."""
        if self._env.get("SLURM_STEP_ID") in _STEPS_WITHOUT_RANKS:
            return None
        step = self.number("SLURM_STEP_ID")
        return step if step is not None and step <= _HIGHEST_STEP else None

    def place(self, family: Family) -> Coordinates | None:
        """The process's place by one family alone."""
        if not all(self._env.get(name) for name in (family.rank, *family.needs)):
            return None
        if family.name == "slurm" and self.step() is None:
            return None
        if family.name == "node" and self._env.get("WORLD_SIZE"):  # then RANK counts ranks
            return None
        if family.name == "script" and (self._env.get("RANK") or self.number(*family.node)):
            return None
        rank, world_size = self.number(family.rank), self.number(*family.world)
        if rank is None:
            return None
        if world_size is not None and rank >= world_size:
            self.warnings[family.rank] = (
                f"{family.rank} is {rank}, not below the {world_size} of {family.world[0]}; both are ignored"
            )
            return None
        local_rank, node_rank = self.number(*family.local), self.number(*family.node)
        return Coordinates(family, rank, world_size, local_rank, node_rank, self.nodes(family, world_size))

    def nodes(self, family: Family, world_size: int | None) -> int | None:
        """The number of nodes by a family's variables; from its ranks on this node if it counts no nodes."""
        said = self.number(*family.nodes)
        here = self.number(*family.here)
        if said is not None or not here or world_size is None:
            return said
        return -(-world_size // here)
