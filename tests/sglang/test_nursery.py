"""Servers that are forked: alike in nothing but their code, and gone when they are killed or nobody is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path as File

import pytest

from evals.sglang_cpu import NURSERY, PYTHON, Server, arguments, free_port
from evals.sglang_cpu.nursery import Nursery
from tests.sglang.conftest import POLICY

PROCESSES = 3
"""The server, its scheduler and its detokenizer."""
ASKING = """
import sys, time
from pathlib import Path
from evals.sglang_cpu import NURSERY, arguments, free_port
forked = NURSERY.fork(arguments(Path(sys.argv[1]), free_port()))
print(forked.process, flush=True)
time.sleep(600)
"""


def group(number: int, states: str = "RSDTt") -> set[int]:
    """The processes of a group in these states: in any but those of having ended."""
    found = set()
    for each in File("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of, *_ = each.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(of) == number and state in states:
            found.add(int(each.parent.name))
    return found


def soon(reached: Callable[[], bool]) -> bool:
    """Whether it comes to be."""
    until = time.monotonic() + 20
    while not reached() and time.monotonic() < until:
        time.sleep(0.05)
    return reached()


def whole(number: int) -> bool:
    return soon(lambda: len(group(number)) == PROCESSES)


def gone(number: int) -> bool:
    return soon(lambda: not group(number))


def test_a_server_is_killed_with_all_of_its_processes_and_what_it_left_on_the_disk() -> None:
    forked = NURSERY.fork(arguments(POLICY, free_port()))
    assert whole(forked.process)
    assert "server_args" in forked.log()
    assert not forked.over
    forked.kill()
    assert forked.over
    assert gone(forked.process)
    with pytest.raises(FileNotFoundError):
        forked.log()


def test_a_signal_reaches_all_of_its_processes() -> None:
    forked = NURSERY.fork(arguments(POLICY, free_port()))
    try:
        assert whole(forked.process)
        forked.send(signal.SIGSTOP)
        time.sleep(0.2)
        states = [
            File(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[0] for each in group(forked.process)
        ]
        assert states == ["T"] * PROCESSES
    finally:
        forked.kill()


def test_servers_end_when_whoever_started_them_is_killed() -> None:
    with tempfile.TemporaryDirectory() as folder:
        told = {**os.environ, "TMPDIR": folder}
        with subprocess.Popen([sys.executable, "-c", ASKING, POLICY], env=told, stdout=subprocess.PIPE) as asking:
            assert asking.stdout is not None
            number = int(asking.stdout.readline())
            assert whole(number)
            assert list(File(folder).glob("sglang-*"))
            asking.kill()
        assert gone(number)
        assert soon(lambda: not list(File(folder).glob("sglang-*")))


def test_no_two_servers_draw_the_same(policy: Server, twin: Server) -> None:
    seeds = set()
    for server in (policy, twin):
        with urllib.request.urlopen(f"{server.url}/server_info", timeout=30) as page:
            seeds.add(json.load(page)["random_seed"])
    assert len(seeds) == 2


def test_a_server_that_cannot_start_says_why() -> None:
    server = Server(POLICY, "--context-length", "many")
    with pytest.raises(RuntimeError, match="argument --context-length: Invalid integer value: 'many'"):
        server.start().ready()
    server.kill()
    assert server.over


def test_where_sglang_cannot_be_imported_it_is_said() -> None:
    nursery = Nursery([str(PYTHON), "-c", "raise SystemExit('no torch')"], lambda: os.environ)
    with pytest.raises(RuntimeError, match="no torch"):
        nursery.fork([])
    nursery.close()
