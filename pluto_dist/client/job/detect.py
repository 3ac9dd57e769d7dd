"""Job detection: which job this process belongs to, its rank, and what it shares with other ranks (R4, R12).

`detect` is a pure function of the environment and of facts about this process and its ancestors, which
`ancestors.py` collects.

The rank is in variables that launchers put into the environment. A family is one launcher's set of them.
Several can be there at once: a script that sets `RANK` from `SLURM_PROCID` has two that agree, a rank below
`srun torchrun` has two of different levels. The first family of the table that is complete gives the rank;
the others that agree with it fill what it leaves open.

What real launchers showed:

* torchrun (torch 2.13) keeps its pid and TORCHELASTIC_RUN_ID over restarts. MASTER_PORT stays only while the
  agent shares its store with the ranks (TORCHELASTIC_USE_AGENT_STORE=True); with
  TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 each attempt got another port. So the port is no part of its key.
* When nodes come or go, torchrun starts all ranks anew without raising TORCHELASTIC_RESTART_COUNT: the same
  attempt can be seen twice, with other ranks.
* A shell loop starts two launches from one process, so there the port is all that tells them apart.
* A pod's own RANK and WORLD_SIZE (one per node) are inherited by torchrun, so torchrun lacks the variables of
  torchrun but not those of its pod.
* `srun --ntasks-per-node=1 torchrun` is how SLURM starts one launcher on each node: such a task has the
  variables of a rank of SLURM and is none.
* `torch.multiprocessing.spawn` gives its children no variables: their rank is known once
  `torch.distributed` is initialised in them. A pod's RANK is then often the number of the node.

Processes are one job only if something says so. For children of one parent their ranks do; without ranks each
is a job of its own, and whether it shares its parent's Run is decided where that Run is known
(`core.rules.kinship`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from pluto_dist.client.values import clean_text
from pluto_dist.core.values.ids import Identity, Job, Scheduled

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


# What `ancestors.py` reads of a process's environment, and nothing else.
LAUNCH_VARIABLES = RANK_VARIABLES | {"PYTEST_CURRENT_TEST"}

# They start unrelated things one after the other, so being their child says nothing about a job.
_NO_LAUNCHERS = frozenset(
    {"raylet", "pytest", "py.test", "ipykernel", "ipykernel_launcher", "colab_kernel_launcher"}
    | {"jupyter-lab", "jupyter-notebook", "jupyterhub-singleuser", "jupyter", "jupyterhub"}
    | {"init", "systemd", "tini", "dumb-init", "docker-init", "catatonit", "launchd", "sshd", "cron", "tmux"}
)
# The ones that run one job each: their identity alone tells two launches apart.
_ONE_JOB_LAUNCHERS: frozenset[FamilyName] = frozenset(
    {"torchelastic", "openmpi", "pmix", "pmi", "slurm", "submitit"}
)
# They start one and the same task again.
_RESTARTING: frozenset[FamilyName] = frozenset({"torchelastic", "submitit"})
_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{1,200}")  # fits the server, file names and people


class ProcessFacts(msgspec.Struct, frozen=True):
    """Facts about this process.

    Attributes:
        environ: its rank variables as it was started with them; a script may have set others since.
        notebook: it is the kernel of a notebook.
        pool_parent: pid of the process that started it by `multiprocessing`.
        forked_from: pid of the process whose open Run it has inherited by a fork.
        group: rank and world size of its default process group, if `torch.distributed` is initialised.
    """

    identity: Identity
    environ: Mapping[str, str] = {}
    notebook: bool = False
    pool_parent: int | None = None
    forked_from: int | None = None
    group: tuple[int, int] | None = None


class AncestorFacts(msgspec.Struct, frozen=True):
    """A parent, or a parent's parent.

    Attributes:
        program: name of the program or of the Python module it runs.
        environ: its rank variables when it was started, None if they cannot be read (another user's
            process, which then is no rank of this job).
        pooled: its command line is that of a process that `multiprocessing` or joblib has started.
        rdzv_id: the id in its command line, if it is a torchrun that was given one.
    """

    identity: Identity
    program: str = ""
    environ: Mapping[str, str] | None = None
    pooled: bool = False
    rdzv_id: str = ""


class Surroundings(msgspec.Struct, frozen=True):
    """The job of a process, with other facts of its surroundings.

    Attributes:
        family: the launcher whose variables gave the rank, None for a plain process.
        ancestors: parent first.
        parents: ancestors whose program the process is a part of (started by `multiprocessing`, or forked),
            parent first.
        notebook: the process is the kernel of a notebook.
        warnings: variables that were ignored, and why.
    """

    job: Job
    family: FamilyName | None = None
    ancestors: tuple[Identity, ...] = ()
    parents: tuple[Identity, ...] = ()
    notebook: bool = False
    warnings: tuple[str, ...] = ()


def detect(
    env: Mapping[str, str],
    process: ProcessFacts,
    ancestors: Sequence[AncestorFacts],
    nth_init: int,
    *,
    launcher: bool = False,
) -> Surroundings:
    """The job of this process.

    Args:
        env: the environment as it is now.
        process: this process.
        ancestors: parent first, as far as they can be seen.
        nth_init: how many times `init()` was called in this process, this time included; the ranks of a sweep
            call it equally often.
        launcher: the process is `pluto-dist run`: on one of the nodes, and no rank.
    """
    place, warnings = read_ranks(env)
    if place is not None and place.world_size == 1 and place.family.name not in _RESTARTING:
        place = None  # no peers to find; and one task is often a shell that starts many programs
    place = _in_group(process, place, env)
    own_key = _key(process.identity, process.identity, env, nth_init)
    if place is None:
        job = Job(key=own_key)
    else:
        job = _job_of_rank(place, env, process, _lineage(process, ancestors), nth_init)
        if launcher:
            nobody = {"rank": None, "local_rank": None, "world_size": None, "launcher": None}
            job = msgspec.structs.replace(job, key=own_key, **nobody)
    return Surroundings(
        job=msgspec.structs.replace(job, scheduled=_scheduled(env)),
        family=place.family.name if place else None,
        ancestors=tuple(each.identity for each in ancestors),
        parents=_parents(process, ancestors),
        notebook=process.notebook,
        warnings=warnings,
    )


def _scheduled(env: Mapping[str, str]) -> Scheduled | None:
    """SLURM gives a job that it puts back into the queue the same number and counts its restarts."""
    number, restarts = env.get("SLURM_JOB_ID", "").strip(), env.get("SLURM_RESTART_COUNT", "").strip()
    if not number:
        return None
    cluster = env.get("SLURM_CLUSTER_NAME", "").strip()
    counted = int(restarts) if restarts.isascii() and restarts.isdecimal() and len(restarts) <= 10 else 0
    return Scheduled(clean_text(" ".join(filter(None, ("slurm", cluster, number)))), counted)


def is_rank(env: Mapping[str, str]) -> bool:
    """Whether a launcher has started this process as one of several, and it starts none itself."""
    place, _ = read_ranks(env)
    return place is not None and (place.world_size or 1) > 1 and not is_node_launcher(env)


def is_node_launcher(env: Mapping[str, str]) -> bool:
    """Whether SLURM has started this process as the one task of its node, on each of several nodes.

    A step has a task on each of its nodes, so as many tasks as nodes are one for each. Variables of any other
    launcher make it a rank of that one.
    """
    place, _ = read_ranks(env)
    if place is None or place.family.name != "slurm" or place.nodes is None:
        return False
    return place.nodes > 1 and place.nodes == place.world_size


def _in_group(process: ProcessFacts, place: Coordinates | None, env: Mapping[str, str]) -> Coordinates | None:
    """The place in the process group, where that says more than the variables.

    The process group has the true ranks. Without an address in the environment two launches of one shell
    could not be told apart by it, so then it counts only for children of one parent.
    """
    if process.group is None or (place is not None and (place.rank, place.world_size) == process.group):
        return place
    if process.pool_parent is None and not _address(env):
        return place
    return place_in_group(*process.group)


def _lineage(process: ProcessFacts, ancestors: Sequence[AncestorFacts]) -> Sequence[AncestorFacts]:
    """Ancestors from the one on that started this process by `multiprocessing`: a server may be between."""
    pids = [each.identity.pid for each in ancestors]
    return ancestors[pids.index(process.pool_parent) :] if process.pool_parent in pids else ancestors


def _parents(process: ProcessFacts, ancestors: Sequence[AncestorFacts]) -> tuple[Identity, ...]:
    started_by = {process.pool_parent, process.forked_from}
    known = [place for place, each in enumerate(ancestors) if each.identity.pid in started_by]
    if not known:
        return ()
    last = known[-1]
    while ancestors[last].pooled and last + 1 < len(ancestors):
        last += 1
    return tuple(each.identity for each in ancestors[: last + 1])


def _job_of_rank(
    place: Coordinates,
    env: Mapping[str, str],
    process: ProcessFacts,
    lineage: Sequence[AncestorFacts],
    nth_init: int,
) -> Job:
    launcher = _launcher(place, env, process, lineage)
    node_rank = _node_rank(place)
    nodes = max(place.nodes or 1, node_rank + 1)
    shared_id = _shared_id(place, env, nth_init) if nodes > 1 else None
    return Job(
        key=_key(process.identity, launcher, env, nth_init, _launch_name(place, env, process, launcher)),
        rank=place.rank,
        local_rank=place.local_rank,
        world_size=place.world_size,
        node_rank=node_rank,
        attempt=place.attempt,
        max_restarts=place.max_restarts,
        launcher=launcher,
        shared_id=shared_id,
        launch=clean_text(" ".join(filter(None, (shared_id, _address(env))))) if nodes > 1 else "",
        nodes=nodes,
        given_id=_given_id(place, env, launcher, lineage),
    )


def _given_id(
    place: Coordinates, env: Mapping[str, str], launcher: Identity | None, lineage: Sequence[AncestorFacts]
) -> str:
    """The id that torchrun was given and does not use: since 2.12.1 not on one node without an address."""
    if place.family.name != "torchelastic":
        return ""
    said = (each.rdzv_id for each in lineage if each.identity == launcher)
    given = next(said, "") or env.get("PET_RDZV_ID", "")
    return "" if given in ("none", env.get("TORCHELASTIC_RUN_ID")) else clean_text(given)


def _node_rank(place: Coordinates) -> int:
    """The node's rank in the job; where no variable says it, ranks are taken to fill nodes in their order."""
    if place.node_rank is None and place.nodes and place.nodes == place.world_size:
        return place.rank  # one rank on each
    if place.node_rank is not None or place.local_rank is None or not place.nodes or not place.world_size:
        return place.node_rank or 0
    return (place.rank - place.local_rank) // -(-place.world_size // place.nodes)


def _launch_name(
    place: Coordinates, env: Mapping[str, str], process: ProcessFacts, launcher: Identity | None
) -> str:
    """Text that tells two launches of one launcher apart, and both from the launcher's own Runs.

    A script that starts its peers is one of them, so their job is its own.
    """
    if place.family.name == "script":
        return ""
    return f"ranks {_launch_of_ranks(place, env, process, launcher)}"


def _launch_of_ranks(
    place: Coordinates, env: Mapping[str, str], process: ProcessFacts, launcher: Identity | None
) -> str:
    """Text that tells launches apart; "" where the launcher alone does."""
    run_id = _elastic_run_id(env)
    if place.family.name == "torchelastic" and run_id:
        return run_id
    one_launch = _has_own_launcher(place) or process.pool_parent is not None
    if launcher is not None and one_launch:
        return ""
    return _address(env)


def _address(env: Mapping[str, str]) -> str:
    """Address at which the ranks meet; it repeats between launches."""
    return f"{env.get('MASTER_ADDR', '')}:{env.get('MASTER_PORT', '')}".removeprefix(":")


def _launcher(
    place: Coordinates, env: Mapping[str, str], process: ProcessFacts, lineage: Sequence[AncestorFacts]
) -> Identity | None:
    if place.family.name == "script" and not _carries(process.environ, env, place):
        return process.identity  # it has set them for the peers it starts
    nearest = next((each for each in lineage if not _carries(each.environ, env, place)), None)
    if nearest is None or (not _has_own_launcher(place) and _starts_anything(nearest, env)):
        return None
    return nearest.identity


def _has_own_launcher(place: Coordinates) -> bool:
    return any(family.name in _ONE_JOB_LAUNCHERS for family in place.agreeing)


def _carries(theirs: Mapping[str, str] | None, env: Mapping[str, str], place: Coordinates) -> bool:
    """Whether the process is this rank's wrapper: it has the same rank of the same job."""
    if theirs is None:
        return False
    families = (place.family,) if place.family.name == "torchelastic" else place.agreeing  # none in a group
    return any(all(theirs.get(name) == env.get(name) for name in family.naming) for family in families)


def _starts_anything(ancestor: AncestorFacts, env: Mapping[str, str]) -> bool:
    if ancestor.program in _NO_LAUNCHERS:
        return True
    # a test runner's worker is a nameless Python, but it has put the test's name into the environment
    return "PYTEST_CURRENT_TEST" in env and "PYTEST_CURRENT_TEST" not in (ancestor.environ or {})


def _key(
    here: Identity, anchor: Identity | None, env: Mapping[str, str], nth_init: int, launch: str = ""
) -> str:
    parts = (
        here.boot_id,
        here.pid_ns,
        (anchor.pid, anchor.start) if anchor else "no launcher",
        env.get("SLURM_JOB_ID", ""),
        env.get("SLURM_STEP_ID", ""),
        env.get("SLURM_RESTART_COUNT", ""),
        nth_init,
        launch,
    )
    return _digest(repr(parts))


def _shared_id(place: Coordinates, env: Mapping[str, str], nth_init: int) -> str | None:
    """Id that all nodes of the launch know; None where it might be that of several launches.

    A job of one node needs none: its ranks have one parent, and `--rdzv-id` is often a constant.
    """
    parts = _shared_parts(place, env)
    if not parts:
        return None
    text = "-".join((*parts, str(nth_init)) if nth_init > 1 else parts)
    return text if _PLAIN_ID.fullmatch(text) else f"{parts[0]}-{_digest(text)}"


def _shared_parts(place: Coordinates, env: Mapping[str, str]) -> tuple[str, ...]:
    elastic = place.family.name == "torchelastic"
    job, restart = env.get("SLURM_JOB_ID", ""), env.get("SLURM_RESTART_COUNT") or "0"
    if elastic and (run_id := _elastic_run_id(env)):
        return ("torchrun", run_id, job, restart) if job else ("torchrun", run_id)
    if place.family.name in ("openmpi", "pmix"):
        step = env.get("PMIX_NAMESPACE", "")  # mpirun's local ranks have no step, those it starts by srun do
    elif elastic or any(family.name == "slurm" for family in place.agreeing):
        step = "" if place.step is None else str(place.step)
    else:
        step = ""
    return ("slurm", job, step, restart) if job and step else ()


def _elastic_run_id(env: Mapping[str, str]) -> str:
    run_id = env.get("TORCHELASTIC_RUN_ID", "").strip()
    return "" if run_id == "none" else run_id


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
