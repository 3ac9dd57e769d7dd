"""Places: where runtime, spool and store are, and that nobody else can put them there."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pluto_dist.errors import PlacesError, SocketPathError
from pluto_dist.host.places import (
    SOCKET_PATH_LIMIT,
    Filesystem,
    Mount,
    existing,
    filesystem_of,
    find_places,
    leftover_spools,
    make_store,
    mount_of,
    open_private,
    parse_mountinfo,
    places_at,
    private_folder,
    short_lived,
    socket_of,
    store_of,
)

NOBODY = 65534
LOCAL = (Mount("/", "ext4"),)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder like /tmp."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@pytest.fixture
def public() -> Iterator[Path]:
    """A sticky folder that another user can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


def base_of(parent: Path) -> Path:
    return parent / f"pluto-dist-{os.geteuid()}"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# --- which place


def test_runtime_and_spool_share_one_private_base(shared: Path):
    """G11"""
    places = find_places(parents=[str(shared)], among=LOCAL)
    assert (places.base, places.rejected, places.remarks) == (base_of(shared), (), ())
    assert {mode_of(folder) for folder in (places.base, places.runtime, places.spool)} == {0o700}


def test_every_process_finds_the_same_place_whatever_its_environment(
    shared: Path, monkeypatch: pytest.MonkeyPatch
):
    """R3: derived from TMPDIR or XDG_RUNTIME_DIR, each job would have a coordinator of its own."""
    first = find_places(parents=[str(shared)], among=LOCAL).base
    monkeypatch.setenv("TMPDIR", str(shared / "job"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(shared / "session"))
    assert find_places(parents=[str(shared)], among=LOCAL).base == first


def test_all_paths_follow_from_the_base(monkeypatch: pytest.MonkeyPatch, shared: Path):
    monkeypatch.setattr("pluto_dist.host.places.SOCKET_PATH_LIMIT", 4096)
    places = find_places(parents=[str(shared)], among=LOCAL)
    assert places_at(places.runtime, places.spool).base == places.base
    for path in (places.socket, places.lock, places.database, places.log):
        assert path.parent == places.runtime


def test_a_coordinator_refuses_folders_that_do_not_belong_together(shared: Path):
    with pytest.raises(PlacesError, match="not run and spool of one folder"):
        places_at(shared / "a" / "run", shared / "b" / "spool")


def test_home_is_insisted_on(tmp_path: Path):
    places = find_places(tmp_path / "deep" / "home", among=LOCAL)
    assert places.runtime == tmp_path / "deep" / "home" / "run"
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(PlacesError, match=f"PLUTO_DIST_HOME={blocked}"):
        find_places(blocked, among=LOCAL)


def test_home_may_be_open_as_its_folders_are_not(tmp_path: Path):
    """A volume that the containers of a pod mount is 0777."""
    tmp_path.chmod(0o777)
    places = find_places(tmp_path, among=LOCAL)
    assert {mode_of(places.runtime), mode_of(places.spool)} == {0o700}
    assert "lets others rename" in places.remarks[0]


def test_an_unusable_place_is_remembered_and_the_next_is_taken(shared: Path, tmp_path: Path):
    """R13"""
    places = find_places(parents=[str(tmp_path / "missing"), str(shared)], among=LOCAL)
    assert places.base == base_of(shared)
    assert [each.path for each in places.rejected] == [str(base_of(tmp_path / "missing"))]
    assert places.rejected[0].reason


def test_a_network_filesystem_is_refused_as_a_default(shared: Path, tmp_path: Path):
    """R13"""
    remote = tmp_path / "remote"
    remote.mkdir(mode=0o700)
    among = (*LOCAL, Mount(str(remote), "nfs4"))
    places = find_places(parents=[str(remote), str(shared)], among=among)
    assert places.rejected[0].reason == "nfs4 is a network filesystem"
    assert not base_of(remote).exists()


def test_a_network_filesystem_is_taken_with_a_warning_when_home_says_so(tmp_path: Path):
    places = find_places(tmp_path / "home", among=(*LOCAL, Mount(str(tmp_path), "lustre")))
    assert "lustre" in places.remarks[0]


def test_a_spool_in_memory_is_taken_with_a_remark(shared: Path):
    places = find_places(parents=[str(shared)], among=(*LOCAL, Mount(str(shared), "tmpfs")))
    assert "counts as memory" in places.remarks[0]


def test_without_any_place_every_reason_is_given(tmp_path: Path):
    """R13"""
    with pytest.raises(PlacesError, match="PLUTO_DIST_HOME") as caught:
        find_places(parents=[str(tmp_path / "a"), str(tmp_path / "b")], among=LOCAL)
    assert len(caught.value.fields["rejected"]) == 2


def test_leases_left_at_another_place_are_found(shared: Path, tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    places = find_places(parents=[str(shared)], among=LOCAL)
    left = find_places(parents=[str(other)], among=LOCAL)
    both = [str(shared), str(other)]
    assert leftover_spools(places, both) == ()
    (left.spool / "leases" / ("0" * 16)).mkdir(parents=True)
    assert leftover_spools(places, both) == (left.spool,)


# --- the socket's path


def test_a_socket_path_may_fill_the_address_and_no_more():
    room = SOCKET_PATH_LIMIT - len("/coordinator.sock")
    assert len(str(socket_of(Path("/" + "x" * (room - 1))))) == SOCKET_PATH_LIMIT
    with pytest.raises(SocketPathError) as caught:
        socket_of(Path("/" + "x" * room))
    assert caught.value.fields["length"] == SOCKET_PATH_LIMIT + 1
    for part in (str(SOCKET_PATH_LIMIT), str(SOCKET_PATH_LIMIT + 1), "PLUTO_DIST_HOME"):
        assert part in caught.value.message


def test_the_length_of_a_socket_path_is_counted_in_bytes():
    with pytest.raises(SocketPathError):
        socket_of(Path("/" + "ü" * 60))


def test_a_home_too_long_for_a_socket_is_refused_before_anything_is_made(tmp_path: Path):
    with pytest.raises(SocketPathError):
        find_places(tmp_path / ("x" * 100), among=LOCAL)
    assert list(tmp_path.iterdir()) == []


# --- nobody else's folders and files


@pytest.mark.parametrize("name", ["", "run", "spool"])
def test_a_planted_link_is_not_followed(shared: Path, tmp_path: Path, name: str):
    """G11"""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    link = base_of(shared) / name
    link.parent.mkdir(mode=0o700, exist_ok=True)
    link.symlink_to(elsewhere)
    with pytest.raises(PlacesError, match="is a symbolic link"):
        find_places(parents=[str(shared)], among=LOCAL)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_folder_open_to_others_is_not_used(shared: Path, mode: int):
    """G11"""
    base_of(shared).mkdir()
    base_of(shared).chmod(mode)
    with pytest.raises(PlacesError, match="is open to others"):
        find_places(parents=[str(shared)], among=LOCAL)


def test_a_file_in_the_place_of_the_folder_is_not_used(shared: Path):
    base_of(shared).write_text("")
    with pytest.raises(PlacesError, match="is not a folder"):
        find_places(parents=[str(shared)], among=LOCAL)


def test_a_tmp_folder_without_sticky_bit_is_not_used(shared: Path):
    """G11: others could rename our folder and put theirs there."""
    shared.chmod(0o777)
    with pytest.raises(PlacesError, match="no sticky bit"):
        find_places(parents=[str(shared)], among=LOCAL)


@needs_root
def test_a_folder_that_another_user_made_first_is_not_used(shared: Path):
    """G11"""
    base_of(shared).mkdir(mode=0o700)
    os.chown(base_of(shared), NOBODY, NOBODY)
    with pytest.raises(PlacesError, match=f"belongs to uid {NOBODY}"):
        find_places(parents=[str(shared)], among=LOCAL)


@needs_root
def test_another_user_cannot_look_into_the_places(public: Path):
    """G11"""
    places = find_places(parents=[str(public)], among=LOCAL)
    os.close(open_private(places.log, os.O_WRONLY | os.O_CREAT))
    for path in (places.base, places.spool, places.log):
        found = subprocess.run(
            ["/bin/ls", str(path)],
            check=False,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            capture_output=True,
        )
        assert b"Permission denied" in found.stderr


@needs_root
def test_two_users_have_two_places(public: Path):
    find_places(parents=[str(public)], among=LOCAL)
    code = (
        "import os; from pluto_dist.host.places import find_places;"
        f"os.setgroups([]); os.setresgid(*[{NOBODY}] * 3); os.setresuid(*[{NOBODY}] * 3);"
        f"print(find_places(parents=[{str(public)!r}]).base)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert found.stdout.strip() == str(public / f"pluto-dist-{NOBODY}"), found.stderr


def test_private_files_are_private_whatever_the_umask(tmp_path: Path):
    """G11"""
    before = os.umask(0)
    try:
        folder = private_folder(tmp_path, "a", "b")
        os.close(open_private(folder / "file", os.O_WRONLY | os.O_CREAT))
    finally:
        os.umask(before)
    assert (mode_of(folder), mode_of(folder.parent), mode_of(folder / "file")) == (0o700, 0o700, 0o600)


def test_a_private_file_is_neither_link_nor_pipe_nor_shared_name(tmp_path: Path):
    """G11"""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "link").symlink_to(victim)
    (tmp_path / "name").hardlink_to(victim)
    os.mkfifo(tmp_path / "pipe")
    for planted in ("link", "name", "pipe"):
        with pytest.raises(OSError, match=r"symbolic|names|plain|device"):
            open_private(tmp_path / planted, os.O_WRONLY | os.O_CREAT)
    assert victim.read_text() == "precious"


def test_a_private_file_is_not_inherited(tmp_path: Path):
    descriptor = open_private(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    assert not os.get_inheritable(descriptor)
    assert os.get_blocking(descriptor)
    os.close(descriptor)


# --- the store


def test_the_store_is_where_the_official_client_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert store_of(None) == tmp_path / ".pluto"
    assert store_of(Path("out")) == tmp_path / "out" / ".pluto"
    assert store_of(Path("/data")) == Path("/data/.pluto")
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_made_when_it_is_needed(tmp_path: Path):
    assert make_store(tmp_path / "a" / ".pluto").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(PlacesError, match="PLUTO_DIR"):
        make_store(tmp_path / "file" / ".pluto")


def test_a_working_directory_that_is_gone_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """R13"""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(PlacesError, match="PLUTO_DIR"):
        store_of(None)
    assert store_of(Path("/data")) == Path("/data/.pluto")


# --- filesystems

MOUNTINFO = r"""
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:25 / /mnt/two\040words rw shared:5 master:1 - nfs4 server:/x rw
31 27 0:26 / /data rw - ext4 /dev/vdb rw
32 27 0:27 /part /data rw - fuse.sshfs host: rw
broken line
"""


def test_mounts_are_read_with_escapes_optional_fields_and_stacking():
    mounts = parse_mountinfo(MOUNTINFO.splitlines())
    assert len(mounts) == 4
    assert mount_of(Path("/mnt/two words/x"), mounts) == Mount("/mnt/two words", "nfs4", "/", "rw")
    assert mount_of(Path("/data/x"), mounts) == Mount("/data", "fuse.sshfs", "/part", "rw")
    assert mount_of(Path("/database"), mounts) == mounts[0]
    assert mount_of(Path("/x"), ()) is None


@pytest.mark.parametrize(
    ("fs_type", "network", "memory"),
    [
        ("ext4", False, False),
        ("xfs", False, False),
        ("overlay", False, False),
        ("nfs", True, False),
        ("cifs", True, False),
        ("lustre", True, False),
        ("gpfs", True, False),
        ("fuse.sshfs", True, False),
        ("fuse.somethingnew", True, False),
        ("fuseblk", False, False),
        ("tmpfs", False, True),
    ],
)
def test_filesystems_are_told_apart(fs_type: str, network: bool, memory: bool):
    found = Filesystem(fs_type, 0)
    assert (found.is_network, found.is_memory) == (network, memory)


def test_a_path_that_does_not_exist_yet_has_the_filesystem_of_its_ancestor(tmp_path: Path):
    assert existing(tmp_path / "a" / "b") == tmp_path.resolve()
    found = filesystem_of(tmp_path / "a" / "b")
    assert found.free_bytes > 0
    if sys.platform == "linux":
        assert found.fs_type


@pytest.mark.parametrize(
    ("path", "fs_type", "word"),
    [
        ("/tmp", "ext4", "/tmp"),
        ("/", "overlay", "container"),
        ("/", "tmpfs", "reboot"),
        ("/", "ext4", None),
        ("/", "nfs4", None),
    ],
)
def test_a_store_that_may_not_outlive_the_job_is_told(path: str, fs_type: str, word: str | None):
    reason = short_lived(Path(path) / "nowhere", fs_type)
    assert (reason is None) if word is None else (word in reason)
