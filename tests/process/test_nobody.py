"""No test sees a login, a key, a job or the home of the person who runs the tests."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

from pluto_dist.host.credentials import login_path, stored_key
from pluto_dist.host.settings import load
from tests import nobody

CHECKOUT = Path(__file__).parents[2]
KEY = "mlps_SOMEBODYS"
THEIRS = {
    "PLUTO_API_KEY": KEY,
    "PLUTO_DIST_HOME": "/nowhere",
    "MLOP_PROJECT": "theirs",
    "RANK": "3",
    "WORLD_SIZE": "4",
    "SLURM_JOB_ID": "77",
    "http_proxy": "http://127.0.0.1:9",
    "PYTHONSTARTUP": "/nowhere",
}
PROBE = """
import json, os
from pathlib import Path
from pluto_dist.host.settings import load
from tests.process.harness import Node

def test_probe():
    node = Node()
    try:
        script = node.start("import json; tell_json('has', dict(os.environ))")
        theirs = script.expect_json("has")
        assert script.wait() == 0
        Path(os.environ["TMPDIR"], "seen").write_text(json.dumps([dict(os.environ), theirs]))
        for env in (os.environ, theirs):
            assert load(env).api_key is None
    finally:
        node.close()
"""


def test_this_process_has_no_login_and_no_key_and_another_home() -> None:
    """G11: `stored_key` looks where HOME and the XDG variables point."""
    assert stored_key(os.environ) is None
    assert load(os.environ).mode == "local"
    assert Path.home() != Path(pwd.getpwuid(os.getuid()).pw_dir)


def test_a_user_who_has_logged_in_is_not_seen_by_any_process_of_the_tests(tmp_path: Path) -> None:
    """A whole run of pytest by such a user; his login is one that the package would find."""
    home = tmp_path / "home"
    login = login_path(home)
    login.parent.mkdir(parents=True)
    login.write_text("[pluto]\npluto = \n\tbWxwc19TT01FQk9EWVM=\n\t\n")
    assert load({"HOME": str(home)}).api_key is not None
    (tmp_path / "test_probe.py").write_text(PROBE)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider"),
            *("--rootdir", str(CHECKOUT), "-c", str(CHECKOUT / "pyproject.toml"), str(tmp_path)),
        ],
        cwd=CHECKOUT,
        env=nobody.environment() | THEIRS | {"HOME": str(home), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    seen = (tmp_path / "seen").read_text()
    assert not [value for value in (*THEIRS.values(), str(home)) if f'"{value}"' in seen]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("nobody-")], (
        "what was made is gone"
    )
