"""A stand-in for torchrun: the real parent of rank processes, without rank variables of its own.

Started by the harness with a socket as stdin. Each message is `{"argv", "env", "cwd"}` with three
descriptors (stdin, stdout, stderr of the rank); the answer is `{"pid"}`, and when the rank has ended
`{"pid", "code"}`. Like torchrun it looks at its ranks from time to time, so a dead one is a zombie for a
moment.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time

LOOK_S = 0.1


def main() -> None:
    """Serves until the test hangs up or somebody kills it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    talk = socket.socket(fileno=0)
    speaking = threading.Lock()

    def tell(**facts: int) -> None:
        with speaking:
            talk.sendall(json.dumps(facts).encode() + b"\n")

    def watch(rank: subprocess.Popen[bytes]) -> None:
        os.waitid(os.P_PID, rank.pid, os.WEXITED | os.WNOWAIT)
        time.sleep(LOOK_S)
        tell(pid=rank.pid, code=rank.wait())

    while True:
        message, descriptors, _, _ = socket.recv_fds(talk, 1 << 20, 3)
        if not message:
            return
        order = json.loads(message)
        stdin, stdout, stderr = descriptors
        rank = subprocess.Popen(
            order["argv"], env=order["env"], cwd=order["cwd"], stdin=stdin, stdout=stdout, stderr=stderr
        )
        for descriptor in descriptors:
            os.close(descriptor)
        tell(pid=rank.pid)
        threading.Thread(target=watch, args=(rank,), daemon=True).start()


if __name__ == "__main__":
    main()
