"""Windows: everything can be imported and called, nothing is recorded, and that is said once (R13).

The interpreter of the child is made to look like one there: the modules and names that Windows lacks are
taken away before the package is imported.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

WINDOWS = """
import os, select, signal, sys
import msgspec, psutil, zmq  # what they do there is their own business
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "termios", "pty", "tty", "resource", "pwd", "grp"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
for name in ("fcntl", "termios", "pty", "tty", "resource", "pwd", "grp"):
    sys.modules.pop(name, None)
for module, names in (
    (os, "fork register_at_fork pipe2 geteuid getuid O_CLOEXEC O_NOFOLLOW O_NONBLOCK O_DIRECTORY"),
    (signal, "SIGKILL SIGHUP pthread_kill pthread_sigmask"),
    (select, "poll"),
):
    for name in names.split():
        delattr(module, name)
sys.platform = "win32"
"""
TRAINER = """
import pluto_dist as pluto
for name in pluto.__all__:
    getattr(pluto, name)
for n in range(2):
    run = pluto.init(run_id=f"r{n}", config={"lr": 1})
    run.log({"loss": 1.0}, step=0)
    pluto.log({"loss": 1.0})
    run.finish()
with pluto.attach("r1") as side:
    side.log({"eval": 1.0})
print(isinstance(run, pluto.Run), run.run_id)
"""


def on_windows(body: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a script as on Windows."""
    argv = [sys.executable, "-c", WINDOWS + body]
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("env", "warnings"),
    [
        ({}, 1),
        ({"PLUTO_API_KEY": "mlpi_x"}, 1),
        ({"PLUTO_DIST_MODE": "local"}, 1),
        ({"PLUTO_DIST_MODE": "disabled"}, 0),
        ({"PLUTO_DIST_MODE": "disabled", "PLUTO_DIST_REQUIRED": "1"}, 0),
    ],
)
def test_a_script_runs_and_is_told_once_that_nothing_is_recorded(env: dict[str, str], warnings: int) -> None:
    """R13: `auto` is disabled with one warning, however many Runs; who asks for disabled hears nothing."""
    done = on_windows(TRAINER, **env)
    assert (done.returncode, done.stdout) == (0, "True r1\n"), done.stderr
    assert done.stderr.count("records nothing on Windows") == warnings
    assert len(done.stderr.splitlines()) == warnings


@pytest.mark.parametrize("mode", ["auto", "local"])
def test_required_makes_it_a_typed_error(mode: str) -> None:
    """R13"""
    body = """
import pluto_dist as pluto
try:
    pluto.init()
except pluto.errors.MachineError as error:
    print(error)
"""
    done = on_windows(body, PLUTO_DIST_MODE=mode, PLUTO_DIST_REQUIRED="1")
    assert "records nothing on Windows" in done.stdout, done.stderr
    assert "WSL" in done.stdout
