"""The trainer's side: handles of Runs, leases and their files, hooks, job detection, console, media.

The way in is `api` with `arguments`, the handle is `run`, what a process writes about itself goes through
`lease`; warnings name their sender, also where no logging is set up. The others:

    opening, offline            how a lease is opened; a Run where there is no coordinator
    lease_files, link           what a lease has: files, and a thread that talks with the coordinator
    record, values, media/      from `log()` into the spool; `watching`: histograms for `run.watch()`
    topics                      hand-over
    runs, tasks, travel         the Runs of this process; those of its tasks; handles in other processes
    hooks, evidence             how this process ends
    job/, origin                which job it belongs to; facts for the Run's page
    console/                    what the process prints, as records
    notices, terminal           what is said to the user
    interface, green            protocols between these; waiting where threads are greenlets
"""

from __future__ import annotations

import logging

from pluto_dist.client.terminal import tell


def _sign(record: logging.LogRecord) -> bool:
    """Writes a record with its sender, where no handler would.

    Without a handler Python prints the bare message, a riddle among the output of a job, and raises where
    stderr does.
    """
    if logging.getLogger(record.name).hasHandlers():
        return True
    if logging.lastResort is not None and record.levelno >= logging.lastResort.level:
        tell(record.getMessage())
    return False


logging.getLogger("pluto_dist").addFilter(_sign)
