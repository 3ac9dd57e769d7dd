"""What a reader may copy from README and how-tos runs: every block of code, page by page, in local mode.

What a block's language and notes mean stands in CONTRIBUTING.md, section Documents. A page is one story: its
blocks run in their order, in one folder of their own, each as a process of its own; all pages share a
coordinator.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.documents.pages import CHECKOUT, Block, Page, pages
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.process

LANGUAGES = {"python", "sh", "yaml", "text", "bash", "mermaid"}
ENDS = {  # of Runs that a page names, when all of it has been run
    "README.md": {"digits-1": "FAILED"},
    "docs/howto/sidecar.md": {"digits-4": "COMPLETED"},
    "docs/howto/uploader.md": {"digits-2": "COMPLETED"},
    "docs/howto/launcher.md": {"shell-1": "COMPLETED"},
    "docs/howto/files.md": {"files-1": "COMPLETED"},
    "docs/howto/preemption.md": {"digits-3": "COMPLETED"},
    "docs/howto/offline.md": {"digits-5": "COMPLETED"},
}
HOW_MANY = {"docs/howto/trials.md": 9}  # Runs that a page makes
WITH_EXAMPLES = [each for each in pages() if each.blocks]


class Home:
    """A node with a short path, and the environment of its processes."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="pd", dir="/tmp"))
        programs = Path(sys.executable).parent
        self.env = {
            "PATH": f"{programs}:{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self.base),
            "LANG": "C.UTF-8",
            "PLUTO_DIST_HOME": str(self.base / "h"),
            "PLUTO_DIST_EXIT_WAIT_S": f"{PATIENCE_S:g}",
            "PLUTO_DIST_SYSTEM_METRICS_S": "0",
            "PLUTO_DIST_STRICT": "1",  # a value that log() leaves out with a warning is an error of the page
        }

    def run(self, argv: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
        """Runs a program; a background process that it leaves holds up nobody, its output is a file."""
        with tempfile.TemporaryFile("w+", dir=self.base) as output:
            done = subprocess.run(
                argv,
                cwd=folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=PATIENCE_S,
                check=False,
            )
            output.seek(0)
            return subprocess.CompletedProcess(argv, done.returncode, output.read(), "")

    def close(self) -> None:
        """Ends the coordinator and removes everything."""
        stopped = self.run(["pluto-dist", "coordinator", "stop", "--json"], self.base)
        pid = json.loads(stopped.stdout)["pid"] if not stopped.returncode else None
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.base)


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    made = Home()
    yield made
    made.close()


def test_every_block_says_what_it_is() -> None:
    """A misspelt language would run nothing."""
    unknown = [
        (block.where, block.info)
        for each in WITH_EXAMPLES
        for block in each.blocks
        if block.language not in LANGUAGES
        or any("." not in note for note in block.notes - {"parsed", "saved"})
    ]
    assert not unknown


@pytest.mark.parametrize("each", WITH_EXAMPLES, ids=lambda each: each.path)
def test_the_examples_of_a_page_run(each: Page, home: Home) -> None:
    """In their order; afterwards each Run of the page has ended, and as the page says."""
    folder = home.base / each.path.replace("/", "-").removesuffix(".md")
    folder.mkdir()
    for block in each.blocks:
        look_at(block)
        name = next((note for note in block.notes if "." in note), "")
        if name:
            (folder / name).write_text(block.code, encoding="utf-8")
        if "parsed" in block.notes or "saved" in block.notes:
            continue
        if block.language == "python":
            carry_out(block, [sys.executable, name or "-c", *([] if name else [block.code])], folder, home)
        elif block.language in ("sh", "bash"):
            carry_out(block, [block.language, "-euc", block.code], folder, home)
    ends = {run["run_id"]: run["status"] for run in runs_in(folder)}
    assert len(ends) == HOW_MANY.get(each.path, len(ends))
    assert "RUNNING" not in ends.values(), ends
    assert ends | ENDS.get(each.path, {}) == ends


def carry_out(block: Block, argv: list[str], folder: Path, home: Home) -> None:
    """Runs a block to its end."""
    done = home.run(argv, folder)
    assert done.returncode == 0, f"{block.where} ended with {done.returncode}:\n{done.stdout}"


def look_at(block: Block) -> None:
    """Parses a block, whether it is run or not."""
    if block.language == "python":
        ast.parse(block.code, block.where)
    elif block.language in ("sh", "bash"):
        parsed = subprocess.run(["bash", "-n"], input=block.code, capture_output=True, text=True, check=False)
        assert not parsed.returncode, f"{block.where}: {parsed.stderr}"
    elif block.language == "yaml":
        assert list(yaml.safe_load_all(block.code)), block.where


@pytest.mark.parametrize("each", WITH_EXAMPLES, ids=lambda each: each.path)
def test_what_is_saved_is_used(each: Page) -> None:
    """A file that only a shell block runs is named in one; nothing stands there for nobody."""
    shell = "".join(block.code for block in each.blocks if block.language in ("sh", "bash"))
    saved = [
        next(note for note in block.notes if "." in note) for block in each.blocks if "saved" in block.notes
    ]
    assert all(name in shell for name in saved)


def runs_in(folder: Path) -> list[dict[str, str]]:
    """Documents of the folder's stores."""
    return [json.loads(path.read_bytes()) for path in folder.glob("**/.pluto/runs/*/run.json")]


@pytest.mark.parametrize("path", sorted((CHECKOUT / "deploy").rglob("*.sbatch")), ids=lambda path: path.name)
def test_batch_files_are_shell(path: Path) -> None:
    """They need SLURM to run; here only their syntax is looked at."""
    assert not subprocess.run(["bash", "-n", path], check=False).returncode


@pytest.mark.parametrize("path", sorted((CHECKOUT / "deploy").rglob("*.yaml")), ids=lambda path: path.name)
def test_manifests_are_yaml(path: Path) -> None:
    """They need a cluster; here only their syntax is looked at, and that each names its kind."""
    documents = [found for found in yaml.safe_load_all(path.read_text("utf-8")) if found]
    assert documents
    assert all({"apiVersion", "kind", "metadata"} <= found.keys() for found in documents)


def test_the_examples_are_typed() -> None:
    """A person who starts from deploy/digits may check types too."""
    pytest.importorskip("torch", reason="torch is not installed here: pip install torch==2.13.0")
    files = sorted(map(str, (CHECKOUT / "deploy" / "digits").glob("*.py")))
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *files],  # with the options of the package, so that they share a cache
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not checked.returncode, checked.stdout


def test_a_runs_name_stands_in_one_page() -> None:
    """All pages share a node, and `attach()` finds Runs of other folders too."""
    named = [name for each in ENDS.values() for name in each]
    assert len(named) == len(set(named))
