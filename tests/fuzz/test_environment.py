"""Whatever stands in the environment: a valid job, and errors that name the setting and no secret."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st

from pluto_dist.client.arguments import run_of
from pluto_dist.client.job.detect import LAUNCH_VARIABLES, AncestorFacts, ProcessFacts, detect
from pluto_dist.core.values.ids import Identity, Job
from pluto_dist.core.values.lifecycle import decode_entry, encode_entry
from pluto_dist.errors import SettingError
from pluto_dist.host.settings import load, settings_keys, target_of, variables_of
from tests.fuzz.budget import fuzz
from tests.fuzz.hostile import scalars, values
from tests.fuzz.test_spool import OPENED
from tests.fuzz.values import texts

JOB_VARIABLES = sorted(
    LAUNCH_VARIABLES
    | {"SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_NODEID", "SLURM_LOCALID", "NODE_RANK", "GROUP_RANK"}
    | {"GROUP_WORLD_SIZE", "TORCHELASTIC_MAX_RESTARTS", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"}
    | {"PMIX_NAMESPACE", "MPI_LOCALRANKID"}
)
numbers = st.sampled_from(
    [
        "",
        "0",
        "1",
        "2",
        "-1",
        "+1",
        " 3 ",
        "1e3",
        "٣",
        "0x10",
        "4294967295",
        "9999999999",
        "9" * 11,
        "9" * 5000,
    ]
)
words = st.sampled_from(["none", "batch", "extern", "true", "\n", "0;rm", "../..", "a" * 3000, "caf\udce9"])
bytes_of_others = st.binary(max_size=8).map(os.fsdecode)
environ_values = numbers | words | texts | bytes_of_others
job_environs = st.dictionaries(st.sampled_from(JOB_VARIABLES), environ_values, max_size=14)
HERE = Identity("boot", 1, 500, 5000)
ancestors = st.lists(
    st.builds(
        AncestorFacts,
        st.integers(1, 9).map(lambda pid: Identity("boot", 1, pid, pid * 10)),
        st.sampled_from(["bash", "torchrun", "pytest", "", "srun"]),
        st.none() | job_environs,
    ),
    max_size=3,
)


@fuzz(120, env=job_environs, initial=job_environs, above=ancestors, parent=st.none() | st.integers(0, 9))
def test_any_environment_gives_a_job_that_can_be_told(
    env: dict[str, str], initial: dict[str, str], above: list[AncestorFacts], parent: int | None
) -> None:
    """R4: no variable is trusted; warnings name those that were ignored; the coordinator can read the job."""
    found = detect(env, ProcessFacts(HERE, initial, pool_parent=parent), above, 1)
    for warning in found.warnings:
        assert warning.split(" ", 1)[0] in JOB_VARIABLES
        assert len(warning) < 300
    entry = msgspec.structs.replace(OPENED, job=found.job, ancestors=found.ancestors, parents=found.parents)
    read = decode_entry(encode_entry(entry))
    assert read == entry
    assert isinstance(found.job, Job)
    if found.job.shared_id is not None:
        run_of("shared", found.job.shared_id)


PASSWORD = "pw-never-shown"
VARIABLES = [name for key in settings_keys() for name in variables_of(key)]
setting_values = environ_values | st.sampled_from(
    [
        f"https://user:{PASSWORD}@host",
        f"http://{PASSWORD}@[::1",
        "http://[",
        "http://host:99999999",
        "ftp://host",
        "~nobody-of-this-name/x",
        "/" + "x" * 5000,
        "1e309",
        "nan",
        "inf",
        "-0",
        "1" * 400 + "g",
        "a\0b",
        "0.1",
        "86400",
        "local",
        "pluto",
        "disabled",
        "fd",
    ]
)


def says_where(error: SettingError) -> None:
    """Setting, source and value, and no password."""
    assert PASSWORD not in error.message + repr(error.fields)
    assert len(error.message) < 3000
    if "source" in error.fields:
        name, source = str(error.fields["setting"]), str(error.fields["source"])
        assert name in error.message
        assert source in error.message
        assert name in source or any(variable in source for variable in variables_of(name))


@fuzz(
    120,
    env=st.dictionaries(
        st.sampled_from([*VARIABLES, "PLUTO_DIST_NOTHING", "PLUTO_DIST_\udce9"]), setting_values, max_size=2
    ),
    given=st.dictionaries(
        st.sampled_from([*settings_keys(), "nothing", "Project", "sync_process_enabled"])
        | st.text(max_size=3),
        scalars | values | setting_values,
        max_size=2,
    ),
)
def test_any_setting_is_taken_or_named(env: dict[str, str], given: dict[str, Any]) -> None:
    """G11: an error names setting and source and no secret; what is taken can be told."""
    env = {"XDG_DATA_HOME": "/nowhere", "XDG_CONFIG_HOME": "/nowhere", "HOME": "/nowhere", **env}
    try:
        found = load(env, given)
    except SettingError as error:
        says_where(error)
        return
    if found.mode != "disabled":
        entry = msgspec.structs.replace(
            OPENED, target=target_of(found, Path("/store")), project=found.project, wait_s=found.open_wait_s
        )
        entry = msgspec.structs.replace(
            entry,
            run=run_of("run_id", found.run_id),
            stuck_after_s=found.stuck_after_s,
            system_metrics_s=found.system_metrics_s,
            launched_by=found.launched_by or "",
        )
        assert decode_entry(encode_entry(entry)) == entry
    for folder in (found.dir, found.home):
        assert folder is None or str(folder).encode()
