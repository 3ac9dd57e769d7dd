"""The tests are nobody's: no login, key, home or job of the person who runs them reaches a test.

Of the environment only what programs need to run at all is kept. Everything else (API keys and addresses, the
rank variables of an interactive SLURM step, proxies, `PYTHONPATH`, settings of the package itself) would make
a test tell something about this machine and not about the package. `HOME` is an empty folder, so there is no
`pluto login`, no keyring, no key file, and no cache of another program is written into.

`become` is called once, when the conftest is loaded: before any module of the tests is imported, and so
before anything is started. Workers of pytest-xdist and all other children inherit the result.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping

KEPT = frozenset(
    """
    PATH LANG LANGUAGE TZ TMPDIR TERM VIRTUAL_ENV LD_LIBRARY_PATH DYLD_LIBRARY_PATH SSL_CERT_FILE SSL_CERT_DIR
    PLUTO_DIST_EXAMPLES PLUTO_DIST_REWRITE PLUTO_OFFICIAL_PYTHON
    """.split()  # noqa: SIM905 -- a list that people read; the last three are the tests' own
)
RUNNERS = ("PYTEST_", "HYPOTHESIS_", "COV_", "COVERAGE_")  # for the runner and its workers only
OWN = {"PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}  # where the login is not a file
_HOME, _MAKER = "PYTEST_NOBODYS_HOME", "PYTEST_NOBODYS_HOME_BY"


def environment(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The part of an environment that a process of a test may have; it lacks a home."""
    return {name: value for name, value in env.items() if name in KEPT or name.startswith("LC_")} | OWN


def become() -> None:
    """From here on this process has nothing of its user's, and a home that is empty."""
    runners = {name: value for name, value in os.environ.items() if name.startswith(RUNNERS)}
    kept = environment() | runners
    os.environ.clear()
    os.environ.update(kept)
    if _HOME not in os.environ:
        os.environ[_HOME] = tempfile.mkdtemp(prefix="nobody-")
        os.environ[_MAKER] = str(os.getpid())
    os.environ["HOME"] = os.environ[_HOME]


def leave() -> None:
    """Removes the home, in the process that has made it."""
    if os.environ.get(_MAKER) == str(os.getpid()):
        shutil.rmtree(os.environ[_HOME], ignore_errors=True)
