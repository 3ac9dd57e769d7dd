"""The contract against real etcd: three members as packaged, an old one, and what may become of them."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from pluto_dist.cluster import wire
from pluto_dist.cluster.etcd import EtcdStore, boot_clock
from pluto_dist.core.values.engine import (
    ABSENT,
    ANY,
    Absent,
    Changed,
    ClusterAddress,
    Joined,
    LeaseLost,
    Listed,
    Refused,
    Reset,
    Unavailable,
    Versioned,
    Written,
)
from tests.cluster.contract import TTL_S, ClusterContract
from tests.cluster.servers import Cluster, until

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]


_connected: list[EtcdStore] = []


def connect(address: ClusterAddress, *, accept_old: bool = False) -> EtcdStore:
    """A store that is closed when the test is over."""
    _connected.append(EtcdStore(address, accept_old=accept_old))
    return _connected[-1]


@pytest.fixture(autouse=True)
def _closes() -> Iterator[None]:
    yield
    while _connected:
        _connected.pop().close()


class EtcdRig:
    """Members, and what can be done to them by their own requests."""

    def __init__(self, cluster: Cluster, *, accept_old: bool) -> None:
        self.cluster = cluster
        self._old = accept_old
        self._stores: dict[str, EtcdStore] = {}

    def store(self, node: str) -> EtcdStore:
        if node not in self._stores:
            self._stores[node] = connect(self.cluster.address(), accept_old=self._old)
        return self._stores[node]

    def now(self) -> float:
        return boot_clock()

    def end_lease(self, node: str) -> None:
        lease = self._stores[node]._lease
        self.post("/v3/lease/revoke", {"ID": str(lease)})

    def compact(self) -> None:
        found = self.store("compacter").list("test/")
        assert isinstance(found, Listed)
        self.post("/v3/kv/compaction", {"revision": str(found.as_of)})

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        reply = httpx.post(f"http://{self.cluster.members[0].client}{path}", json=body, timeout=30)
        assert reply.is_success, reply.text
        return dict(reply.json())


def started(folder: Path, size: int, version: str) -> Iterator[EtcdRig]:
    cluster = Cluster(folder, size, version=version)
    try:
        cluster.start()
        cluster.wait()
        yield EtcdRig(cluster, accept_old=version == "old")
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdRig]:
    yield from started(tmp_path_factory.mktemp("etcd"), 3, "packaged")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdRig]:
    yield from started(tmp_path_factory.mktemp("etcd-old"), 1, "old")


class TestPackaged(ClusterContract):
    @pytest.fixture
    def rig(self, three: EtcdRig) -> EtcdRig:
        return EtcdRig(three.cluster, accept_old=False)


class TestOld(ClusterContract):
    @pytest.fixture
    def rig(self, old: EtcdRig) -> EtcdRig:
        return EtcdRig(old.cluster, accept_old=True)


@pytest.mark.parametrize("spelling", ["compares", "Compare", "comparisons"])
def test_the_trap_is_there_a_misspelt_condition_is_ignored(three: EtcdRig, spelling: str):
    """Why one module builds all requests: this is what etcd does with a condition that it cannot read."""
    key = f"test/trap/{spelling}"
    store = connect(three.cluster.address())
    assert isinstance(store.write(key, b"mine", expect=ABSENT), Written)
    body = dict(wire.put(key, b"overwritten", expect=ABSENT, while_=None, dead=None, lease=0).body)
    body[spelling] = body.pop("compare")
    assert three.post("/v3/kv/txn", body)["succeeded"] is True
    found = store.read(key)
    assert isinstance(found, Versioned)
    assert found.value == b"overwritten"


def test_an_old_version_is_refused_with_the_way_out(old: EtcdRig):
    found = connect(old.cluster.address()).join(TTL_S)
    assert isinstance(found, Refused)
    assert (found.why, "3.5.1" in found.reason, "3.5.6" in found.reason) == ("version", True, True)


# --- members that die, freeze, or come back ---------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EtcdRig]:
    """Three members that the test may hurt."""
    yield from started(tmp_path, 3, "packaged")


def test_a_dead_leader_costs_one_answer_and_no_lease(own: EtcdRig):
    store = own.store("a")
    assert isinstance(store.join(TTL_S), Joined)
    assert isinstance(store.write("test/k", b"0", expect=ANY, leased=True), Written)
    own.cluster.leader().kill()
    results: list[object] = []

    def written() -> bool:
        results.append(store.write("test/k", b"1", expect=ANY, leased=True))
        return isinstance(results[-1], Written)

    until(written, "a write after the leader's death")
    assert all(isinstance(result, Written | Unavailable) for result in results)
    assert isinstance(store.renew(), Joined)


def test_without_a_majority_nothing_is_certain_and_nothing_is_lost(own: EtcdRig):
    """A change that was given up may be carried out later: it is unknown, and never a no."""
    store = own.store("a")
    assert isinstance(store.write("test/k", b"0", expect=ANY), Written)
    stopped = [member for member in own.cluster.members if member is not own.cluster.leader()]
    for member in stopped:
        member.signal(signal.SIGSTOP)
    try:
        found = store.write("test/k", b"1", expect=ANY)
        assert isinstance(found, Unavailable)
        until(lambda: isinstance(store.list("test/"), Unavailable), "a list that gives up")
    finally:
        for member in stopped:
            member.signal(signal.SIGCONT)
    until(lambda: isinstance(store.write("test/after", b"1", expect=ANY), Written), "the majority")
    final = store.read("test/k")
    assert isinstance(final, Versioned)
    assert final.value in ({b"0"} if found.applied == "no" else {b"0", b"1"})


def test_a_lease_that_ran_out_is_lost_and_another_one_is_had(own: EtcdRig):
    store, reader = own.store("a"), own.store("b")
    assert isinstance(store.join(2), Joined)
    assert isinstance(store.write("test/n", b"1", expect=ANY, leased=True), Written)
    until(lambda: reader.read("test/n") == Absent(), "the lease to run out")
    assert store.renew() == LeaseLost()
    assert isinstance(store.join(TTL_S), Joined)


def test_an_emptied_engine_is_a_reset(tmp_path: Path):
    cluster = Cluster(tmp_path / "one", 1)
    try:
        cluster.start()
        cluster.wait()
        store = connect(cluster.address())
        for number in range(20):
            store.write("test/k", b"%d" % number, expect=ANY)
        assert isinstance(store.list("test/"), Listed)
        cluster.close()
        subprocess.run(["rm", "-rf", str(cluster.members[0].folder / "data")], check=True)
        cluster.start()
        cluster.wait()
        found: list[object] = []

        def answered() -> bool:
            found.append(store.list("test/"))
            return not isinstance(found[-1], Unavailable)

        until(answered, "an answer")
        assert isinstance(found[-1], Reset)
        assert isinstance(store.list("test/"), Listed)
    finally:
        cluster.close()


def test_a_member_that_comes_back_has_the_values_and_the_lease(tmp_path: Path):
    """One member is enough for most: while it is down everything waits, and nothing is lost."""
    cluster = Cluster(tmp_path / "one", 1)
    try:
        cluster.start()
        cluster.wait()
        store = connect(cluster.address())
        assert isinstance(store.join(TTL_S), Joined)
        assert isinstance(store.write("test/n", b"1", expect=ANY, leased=True), Written)
        cluster.close()
        assert isinstance(store.renew(), Unavailable)
        cluster.start()
        until(lambda: isinstance(store.renew(), Joined), "the member")
        assert isinstance(store.read("test/n"), Versioned)
    finally:
        cluster.close()


# --- noes ------------------------------------------------------------------------------------------------


def only(tmp_path: Path, *extra: str) -> Cluster:
    cluster = Cluster(tmp_path / "one", 1, extra=extra)
    cluster.start()
    return cluster


def test_no_space_lets_those_who_are_in_stay_in(tmp_path: Path):
    cluster = only(tmp_path, "--quota-backend-bytes=2097152")
    try:
        cluster.wait()
        store = connect(cluster.address())
        assert isinstance(store.join(TTL_S), Joined)
        found: list[object] = []

        def full() -> bool:
            found.append(store.write(f"test/{len(found)}", b"x" * 100_000, expect=ANY))
            return not isinstance(found[-1], Written)

        until(full, "the quota")
        assert isinstance(found[-1], Refused)
        assert found[-1].why == "space"
        assert isinstance(store.renew(), Joined)
        assert isinstance(store.read("test/0"), Versioned)
        joined = connect(cluster.address()).join(TTL_S)
        assert isinstance(joined, Refused)
        assert joined.why == "space"
    finally:
        cluster.close()


def test_a_gateway_that_is_off_is_named(tmp_path: Path):
    """It is off when etcd runs from a configuration file that does not turn it on."""
    cluster = only(tmp_path, "--enable-grpc-gateway=false")
    try:
        store = connect(cluster.address())
        found: list[object] = []

        def answered() -> bool:
            found.append(store.join(TTL_S))
            return not isinstance(found[-1], Unavailable)

        until(answered, "an answer")
        assert isinstance(found[-1], Refused)
        assert (found[-1].why, "enable-grpc-gateway" in found[-1].reason) == ("gateway", True)
    finally:
        cluster.close()


def test_nobody_listens(tmp_path: Path):
    found = connect(ClusterAddress(members=("http://127.0.0.1:9",), prefix="test")).join(TTL_S)
    assert isinstance(found, Unavailable)
    assert found.applied == "no"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Cluster]:
    """A member with users: root, and `job`, which may only use `test/`."""
    cluster = only(tmp_path, "--auth-token=simple", "--auth-token-ttl=2")
    try:
        cluster.wait()
        post = EtcdRig(cluster, accept_old=False).post
        for name, password in (("root", "rooty"), ("job", "jobby")):
            post("/v3/auth/user/add", {"name": name, "password": password})
        post("/v3/auth/role/add", {"name": "root"})
        post("/v3/auth/user/grant", {"user": "root", "role": "root"})
        post("/v3/auth/role/add", {"name": "jobs"})
        key, end = (base64.b64encode(text).decode() for text in (b"test/", b"test0"))
        permission = {"permType": "READWRITE", "key": key, "range_end": end}
        post("/v3/auth/role/grant", {"name": "jobs", "perm": permission})
        post("/v3/auth/user/grant", {"user": "job", "role": "jobs"})
        post("/v3/auth/enable", {})
        yield cluster
    finally:
        cluster.close()


def as_user(cluster: Cluster, folder: Path, password: str, prefix: str = "test") -> EtcdStore:
    (folder / "password").write_text(password + "\n")
    return connect(cluster.address(prefix, user="job", password_file=str(folder / "password")))


def settled(ask: Any) -> Any:
    """The first answer that is not "later"; a login takes its time on a busy machine."""
    found: list[Any] = []

    def answered() -> bool:
        found.append(ask())
        return not isinstance(found[-1], Unavailable)

    until(answered, "an answer")
    return found[-1]


def test_a_password_and_what_it_allows(guarded: Cluster, tmp_path: Path):
    store = as_user(guarded, tmp_path, "jobby")
    assert isinstance(settled(lambda: store.write("test/k", b"1", expect=ANY)), Written)
    refused = settled(lambda: store.write("other/k", b"1", expect=ANY))
    assert isinstance(refused, Refused)
    assert refused.why == "permission"
    wrong = settled(lambda: as_user(guarded, tmp_path, "wrong").read("test/k"))
    assert isinstance(wrong, Refused)
    assert (wrong.why, "wrong" in wrong.reason) == ("auth", False)
    nobody = settled(lambda: connect(guarded.address()).read("test/k"))
    assert isinstance(nobody, Refused)
    assert (nobody.why, "PLUTO_DIST_CLUSTER_USER" in nobody.reason) == ("auth", True)


def test_a_token_that_expired_is_got_anew(guarded: Cluster, tmp_path: Path):
    store = as_user(guarded, tmp_path, "jobby")
    assert isinstance(settled(lambda: store.write("test/k", b"1", expect=ANY)), Written)
    store._token = "not.1"  # as after the restart of a member, which forgets all tokens
    assert isinstance(settled(lambda: store.read("test/k")), Versioned)
    listed = settled(lambda: store.list("test/"))
    assert isinstance(store.watch("test/", listed.as_of, 0.2), Changed)


def test_a_user_where_there_are_none_is_named(three: EtcdRig, tmp_path: Path):
    found = settled(lambda: as_user(three.cluster, tmp_path, "x").read("test/k"))
    assert isinstance(found, Refused)
    assert (found.why, "PLUTO_DIST_CLUSTER_USER" in found.reason) == ("auth", True)


def test_tls_that_is_refused_is_named(tmp_path: Path):
    pem = tmp_path / "pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{pem}.key", "-out", f"{pem}.crt"],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("no openssl")
    cluster = only(tmp_path, f"--cert-file={pem}.crt", f"--key-file={pem}.key")
    try:
        member = f"https://{cluster.members[0].client}"
        good = connect(ClusterAddress(members=(member,), prefix="test", ca=f"{pem}.crt"))
        assert isinstance(settled(lambda: good.join(TTL_S)), Joined)
        unknown = settled(lambda: connect(ClusterAddress(members=(member,), prefix="test")).join(TTL_S))
        assert isinstance(unknown, Refused)
        assert (unknown.why, "PLUTO_DIST_CLUSTER_CA" in unknown.reason) == ("tls", True)
        plain = connect(cluster.address()).join(TTL_S)  # it only hangs up
        assert isinstance(plain, Unavailable)
        assert "etcds://" in plain.reason
    finally:
        cluster.close()


# --- the command -------------------------------------------------------------------------------------------


def test_doctor_tries_a_compare_and_set(three: EtcdRig, tmp_path: Path):
    found = doctor(three.cluster.url + "/test", tmp_path)
    assert found["cluster.compare_and_set"] == (True, "ok")
    assert found["cluster.lease"] == (True, "ok")
    assert found["cluster.alarm"] == ("none", "ok")
    assert "3.4.23" in str(found["cluster.member.1"][0])
    left = connect(three.cluster.address()).list("test/v1/.doctor/")
    assert isinstance(left, Listed)
    assert not left.items


def test_doctor_names_what_is_wrong(old: EtcdRig, tmp_path: Path):
    found = doctor(old.cluster.url.replace("etcd://", "etcd://127.0.0.1:9,"), tmp_path)
    assert (found["cluster.member.1"][1], found["cluster.member.2"][1]) == ("warn", "bad")


def doctor(url: str, tmp_path: Path) -> dict[str, tuple[object, str]]:
    import os
    import sys

    env = {
        **os.environ,
        "PLUTO_DIST_CLUSTER": url,
        "PLUTO_DIST_HOME": str(tmp_path / "home"),
        "PLUTO_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", "from pluto_dist.cli.main import app; app()", "doctor", "--json"],
        capture_output=True, text=True, env=env, check=False,
    )  # fmt: skip
    facts = json.loads(done.stdout)["facts"]
    assert msgspec.json.encode(facts)
    return {fact["name"]: (fact["value"], fact["level"]) for fact in facts}
