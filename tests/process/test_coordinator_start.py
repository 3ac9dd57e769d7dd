"""Many clients and one coordinator: starts, races, and its leaving when nobody is there (R3)."""

from __future__ import annotations

import json
from collections import Counter

from tests.patience import NEVER_S
from tests.process.harness import Node, wait_until

CROWD = """
    import pluto_dist.client.run
    go_read, go_write = os.pipe()
    for number in range(64):
        if os.fork() == 0:
            os.close(go_write)
            os.read(go_read, 1)
            run = pluto.attach("crowd", label=f"side{number}", timeout_s=NEVER_S)
            run.log({f"side{number}": 1.0}, 0)
            account(run.lease_id, {f"side{number}": 1.0}, 0)
            tell_json("granted", [os.getpid(), run.role, run.label])
            run.close()
            os._exit(0)
    os.close(go_write)
    for _ in range(64):
        os.wait()
    tell("all")
"""


def test_sixty_four_processes_attach_at_once(node: Node) -> None:
    """G12, section 8: all are granted, by one coordinator, each under its own label."""
    owner = node.start('run = pluto.init(run_id="crowd", quiet=True); tell("up"); hear(); run.finish()')
    owner.expect("up")
    crowd = node.start(CROWD, name="crowd")
    granted = [crowd.expect_json("granted") for _ in range(64)]
    crowd.expect("all")
    owner.say()
    assert owner.wait() == 0
    assert {role for _, role, _ in granted} == {"side"}
    assert len({label for _, _, label in granted}) == len({pid for pid, *_ in granted}) == 64
    assert len(node.said("started")) == 1
    found = node.ended("crowd")
    assert (found["status"], found["points"], len(found["leases"])) == ("COMPLETED", 64, 65)
    assert not node.lost("crowd")


RACE = """
    import json, pluto_dist.client.run, pluto_dist.client.job.detect, pluto_dist.host.launch
    forking = sys.argv[1] == "fork"
    pluto_dist.host.launch.TICKET_LIFE_S = NEVER_S  # who waits for a stale one waits for ever

    def fork_and_fork(stop):
        while not stop.is_set():
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
            time.sleep(0.02)

    def client(number, home):
        os.environ["PLUTO_DIST_HOME"] = home
        stop = threading.Event()
        if forking:
            threading.Thread(target=fork_and_fork, args=(stop,), daemon=True).start()
        run = pluto.init(run_id=f"{os.path.basename(home)}.{number}", quiet=True)
        os.write(meeting[number][1], b"!")
        os.read(meeting[1 - number][0], 1)  # both have been granted before one of them leaves
        log(run, {"loss": 1.0}, 0)
        run.finish()
        stop.set()
        tell("raced", home)
        os._exit(0)

    for turn in range(25):
        home = f"{os.environ['PLUTO_DIST_HOME']}{sys.argv[2]}{turn}"
        children, meeting = [], [os.pipe(), os.pipe()]
        for number in (0, 1):
            child = os.fork()
            if child == 0:
                client(number, home)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
        lines = open(f"{home}/run/coordinator.log").read().splitlines()
        assert all(line.startswith("{") for line in lines), lines
        for line in lines:
            if json.loads(line)["event"] == "started":
                os.kill(int(json.loads(line)["pid"]), signal.SIGTERM)
        for end in (*meeting[0], *meeting[1]):
            os.close(end)
    tell("over")
"""


def test_two_clients_race_fifty_times_to_start_the_coordinator(node: Node) -> None:
    """R3: always exactly one serves, also while the clients fork, and nobody waits for a stale ticket."""
    node.set(PLUTO_DIST_IDLE_EXIT_S=f"{NEVER_S:g}")  # the lane ends each with its turn
    lanes = [node.start(RACE, kind, kind, name=f"race_{kind}") for kind in ("fork", "still")]
    raced = [lane.expect("raced") for lane in lanes for _ in range(50)]
    for lane in lanes:
        lane.expect("over")
        assert lane.wait() == 0
        assert not lane.stderr
    assert len(set(raced)) == 50
    assert set(Counter(raced).values()) == {2}
    for home in set(raced):
        log = (node.base / home / "run" / "coordinator.log").read_text()
        events = [json.loads(line)["event"] for line in log.splitlines() if line.startswith("{")]
        assert events.count("started") == 1, log
    documents = {found["run_id"]: found for found in node.documents()}
    assert len(documents) == 100
    assert {(found["status"], found["points"]) for found in documents.values()} == {("COMPLETED", 1)}


COMING_AND_GOING = """
    socket = f"{os.environ['PLUTO_DIST_HOME']}/run/coordinator.sock"
    for turn in range(30):
        run = pluto.init(run_id=f"turn{turn}", quiet=True)
        log(run, {"loss": float(turn)}, turn)
        run.finish()
        tell("turn")
        if turn % 3:  # the others come while it idles
            while os.path.exists(socket): time.sleep(0.001)  # it begins to leave
            time.sleep(turn * 7 % 30 * 0.006)
"""


def test_a_client_that_comes_while_the_coordinator_leaves_is_served(node: Node) -> None:
    """R3: unlink, drain, cancel if anything came, else unlock; the client neither hangs nor loses."""
    node.set(PLUTO_DIST_IDLE_EXIT_S="0.1")
    script = node.start(COMING_AND_GOING)
    for _ in range(30):
        script.expect("turn")
    assert script.wait() == 0
    assert not script.stderr
    for turn in range(30):
        found = node.ended(f"turn{turn}")
        assert (found["status"], found["points"]) == ("COMPLETED", 1)
    assert len(node.said("started")) > 5, "it never left, so nothing was tested"
    assert node.said("stopped")[0]["reason"] == "idle for 0.1 s"
    print(f"{len(node.said('started'))} coordinators")


def test_a_second_coordinator_finds_the_lock_taken(node: Node) -> None:
    """R3: only one; the second leaves at once and harms nothing."""
    script = node.start("""
        from pluto_dist.host import launch
        from pluto_dist.host.places import find_places
        import pathlib, subprocess
        run = pluto.init(run_id="one", quiet=True)
        places = find_places(pathlib.Path(os.environ["PLUTO_DIST_HOME"]))
        options = launch.CoordinatorOptions(places.runtime, places.spool)
        done = subprocess.run(launch.command(options), capture_output=True, text=True)
        tell("code", done.returncode, "already_running" in done.stderr)
        tell("status", run.status)
    """)
    assert script.expect("code") == "0 True"
    assert script.expect("status") == "RUNNING"
    assert script.wait() == 0
    assert len(node.said("started")) == 1


EAGER = """
    import pluto_dist.host.launch as starting
    starting.TICKET_LIFE_S = 0.0  # each look is a try
    launch = starting.launch
    def tried(*places, **more):
        started = launch(*places, **more)
        tell("tried", started)
        return started
    starting.launch = tried
    real = starting.command
    waits = f'until [ -e {os.getcwd()}/go ]; do sleep 0.05; done; exec "$@"'
    slow = ("/bin/sh", "-c", waits, "sh")
    starting.command = lambda options: [*slow, *real(options)]
    run = pluto.init(run_id="slow", resume=True, quiet=True)
    tell("up")
    hear()
    run.close()
"""


def test_nobody_starts_a_second_coordinator_because_the_first_is_slow(node: Node) -> None:
    """R3: whoever tries finds that there is one, however long it takes until it serves them all."""
    scripts = [node.start(EAGER, name=f"script{number}") for number in range(4)]
    tries = [script.expect("tried") for script in scripts for _ in range(3)]
    assert sorted(tries) == ["False"] * 11 + ["True"]
    (pid,) = node.started()
    (node.base / "go").touch()
    for script in scripts:
        script.expect("up")
        script.say()
    assert [line["pid"] for line in node.said("started")] == [str(pid)]
    assert not node.said("already_running")


def test_an_idle_coordinator_leaves_and_takes_its_socket_along(node: Node) -> None:
    """R3: idle exit; nothing is left that a client could mistake for a coordinator."""
    node.set(PLUTO_DIST_IDLE_EXIT_S="1")
    script = node.start('pluto.init(quiet=True).finish(); tell("over")')
    script.expect("over")
    assert script.wait() == 0
    wait_until(lambda: node.said("stopped"), "it has left")
    wait_until(lambda: not node.coordinators(), "it is gone")
    left = {path.name for path in (node.home / "run").iterdir()}
    assert left <= {"coordinator.log", "coordinator.db", "coordinator.lock", "coordinator.alive"}
    assert not list((node.home / "spool" / "leases").iterdir())


MEANWHILE = """
    from pluto_dist.client import api
    from pluto_dist.host.launch import someone_listens
    from pluto_dist.host.places import find_places

    begin = api.start_meanwhile

    def begin_and_wait(settings):
        begin(settings)
        while not someone_listens(find_places(settings.home).socket):
            time.sleep(0.01)
        tell("there", "pluto_dist.client.travel" in sys.modules)

    api.start_meanwhile = begin_and_wait
    for name in ("first", "second"):
        pluto.init(run_id=name, quiet=True).finish()
    tell("ended")
"""


def test_a_coordinator_starts_while_the_first_init_still_loads_its_modules(node: Node) -> None:
    """And once: a second `init()` has nothing to load, and does not look for it."""
    script = node.start(MEANWHILE)
    assert script.expect("there") == "False"
    script.expect("ended")
    assert script.wait() == 0
    assert len(node.said("started")) == 1
