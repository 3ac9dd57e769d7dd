"""Revisions of this package, each in an environment of its own, to be measured beside each other.

The code is this working tree, or an archive of an older revision in a temporary folder; the interpreter has
the dependencies that the revision names, and nothing else. Environments are kept beside the checkout, one for
each list of dependencies.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from tests.process.harness import CHECKOUT

BESIDE = ("numpy>=1.26",)  # what scripts log


class Build(NamedTuple):
    """One revision.

    Attributes:
        name: of its column.
        python: its interpreter.
        code: folder that has its `pluto_dist`.
    """

    name: str
    python: str
    code: Path

    @property
    def path(self) -> str:
        """PYTHONPATH of its processes: its package, and the tests of this checkout."""
        return str(self.code) if self.code == CHECKOUT else f"{self.code}:{CHECKOUT}"


HERE = Build("here", sys.executable, CHECKOUT)


@contextlib.contextmanager
def both(revision: str) -> Iterator[tuple[Build, Build]]:
    """This working tree and a revision."""
    with tempfile.TemporaryDirectory(prefix="pd") as name:
        code = Path(name)
        _check_out(revision, code)
        yield HERE._replace(python=_python(CHECKOUT)), Build(revision, _python(code), code)


def _check_out(revision: str, folder: Path) -> None:
    git = ["git", "-C", str(CHECKOUT), "archive", revision, "pluto_dist", "pyproject.toml"]
    done = subprocess.run(git, stdout=subprocess.PIPE, check=True)
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(folder)], check=True)


def _python(code: Path) -> str:
    """An interpreter with the dependencies of a revision."""
    with (code / "pyproject.toml").open("rb") as text:
        return environment((*tomllib.load(text)["project"]["dependencies"], *BESIDE))


def environment(needs: Iterable[str]) -> str:
    """An interpreter with these packages.

    Raises:
        CalledProcessError: they cannot be installed.
    """
    needs = sorted(needs)
    digest = hashlib.sha256(f"{sys.version}{needs}".encode()).hexdigest()[:8]
    folder = CHECKOUT / f".venv-bench-{digest}"
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *needs], check=True)
        done.touch()
    return str(python)
