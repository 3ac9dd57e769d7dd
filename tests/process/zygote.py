"""A Python that has imported what takes seconds, and becomes the programs that need it by forking.

Importing torch costs 1.6 s of a core, Lightning or Transformers three times as much: most of what a test with
them costs. Scripts that begin behind those imports, and torchrun's agent, are forked from here. They have
their own pid, environment, folder, arguments and files, and end as an interpreter ends; only
`/proc/PID/environ` and the command line are those of this process. So ranks, whose variables are looked up
there, are never started from here: an agent starts them, as ever.

Started by the harness with a socket as stdin and the modules as arguments. Each message is `{"argv", "env",
"cwd"}` with three descriptors (stdin, stdout, stderr), as for `launcher.py`, or `{"reap": pid}`; answers are
`{"pid"}`, and when the program has ended `{"pid", "code"}`. It stays a zombie until it is reaped.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import socket
import sys
from typing import Any


class Nursery:
    """The children, and the talk with the harness."""

    def __init__(self) -> None:
        self._talk = socket.socket(fileno=os.dup(0))
        self._children: dict[int, int] = {}

    def serve(self) -> list[str] | None:
        """Returns None when the harness hangs up, and in each child the arguments of its program."""
        while True:
            ready, _, _ = select.select([self._talk, *self._children], [], [])
            for pidfd in set(ready) - {self._talk}:
                self._tell_end(pidfd)
            if self._talk in ready:
                message, descriptors, _, _ = socket.recv_fds(self._talk, 1 << 20, 3)
                if not message:
                    return None
                order = json.loads(message)
                if "reap" in order:
                    os.waitpid(order["reap"], 0)
                elif (argv := self._start(order, descriptors)) is not None:
                    return argv

    def _start(self, order: dict[str, Any], descriptors: list[int]) -> list[str] | None:
        pid = os.fork()
        if pid:
            for descriptor in descriptors:
                os.close(descriptor)
            self._children[os.pidfd_open(pid)] = pid
            self._tell(pid=pid)
            return None
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        self._talk.close()
        for descriptor in (*descriptors, *self._children):
            os.close(descriptor)
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["env"])
        argv: list[str] = order["argv"]
        return argv

    def _tell_end(self, pidfd: int) -> None:
        pid = self._children.pop(pidfd)
        os.close(pidfd)
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        self._tell(pid=pid, code=ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status)

    def _tell(self, **facts: int) -> None:
        self._talk.sendall(json.dumps(facts).encode() + b"\n")


def run(argv: list[str]) -> None:
    """A command line of this interpreter, without its options: `-m MODULE …` or `FILE …`."""
    if argv[0] == "-m":
        sys.argv = argv[1:]
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv
        runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        importlib.import_module(name)
    program = Nursery().serve()
    if program is not None:
        run(program)
