"""Untrusted programs in a box: bubblewrap around a Python that has nothing but its standard library.

A program in it sees no environment, no network, no file but what Python needs and what it writes itself, and no process
but its own; its time, memory, processes and output have limits. Nobody has to believe that: a box is tried before it is
used. What it cannot prevent is that a program that means to cheats the test with which it shares an interpreter.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path as File
from typing import Annotated, Self

from pydantic import Field, PositiveFloat

from tts.answers import Runner
from tts.errors import UsageError
from tts.types import Noun

MIB = 2**20
STARTED = b"\x00started\n"
FOLDER = 16 * MIB
"""Bytes that all files of a program may have together; they are in memory."""
DEVICES = (File("/dev/null"), File("/dev/urandom"))
NOBODY = "65534"
TRYING_SECONDS = 2.0

INSIDE = f"""
import builtins, json, os, resource, sys, types

def main():
    program, given, limits, end = json.load(sys.stdin)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0), os.dup2(nothing, 2)
    for name, limit in limits.items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    me, out = os.getpid(), os.dup(1)
    module = types.ModuleType("program" if given else "__main__")
    sys.modules["__main__"] = sys.modules[module.__name__] = module
    builtins.exit = builtins.quit = sys.exit
    os.write(out, {STARTED!r})
    try:
        exec(compile(program, "<program>", "exec"), module.__dict__)
        exec(compile(given, "<test>", "exec"), module.__dict__)
    except SystemExit as left:
        if given or left.code:
            os._exit(1)
    sys.stdout.flush()
    if os.getpid() == me:
        os.write(out, end.encode())
    os._exit(0)

main()
"""
"""What runs in the box before the program: it sets the limits, and says whether the end was reached. An exit code would
not do, for whoever leaves early, even with a zero, has passed nothing; and what is said is a secret of each call."""


class Sandbox(Noun):
    """A `Runner`: `Sandbox().checked()` is one that may be used. Frozen, and picklable for `Run.compute`.

    `given` is Python that runs after the program, in its namespace: a test that raises where the program is wrong, or
    a call that prints. With it the program is imported, so that what it does as a script is not done; without it the
    program is the script.
    """

    seconds: PositiveFloat = 5.0
    """On the clock, and of each process's processor time."""
    memory: Annotated[int, Field(ge=64 * MIB)] = 512 * MIB
    """Bytes of address space that each process has."""
    processes: Annotated[int, Field(ge=4)] = 16
    """Threads are counted like processes."""
    output: Annotated[int, Field(ge=1)] = MIB
    """Bytes that may be printed, and that may be in one file."""

    def checked(self) -> Self:
        """Itself, once programs that try to get out of a sandbox were kept in: once per process, in two seconds.

        Raises `UsageError`, with the reason, where that cannot be had.
        """
        if fault := _fault():
            raise UsageError(f"unit tests are off: {fault}")
        return self

    def __call__(self, program: str, given: str) -> str | None:
        """What the program printed; None where it failed, left early, or went beyond a limit.

        Raises `UsageError` where the sandbox itself failed, which says nothing about the program.
        """
        end = secrets.token_hex()
        try:
            told, complaint = self._told(json.dumps([program, given, self._limits(), end]).encode(), len(end))
        except OSError as error:
            raise UsageError(f"the sandbox failed: {error.strerror}") from error
        if not told.startswith(STARTED):
            why = complaint.decode(errors="replace").strip() or f"nothing started in {self.seconds:g} s"
            raise UsageError(f"the sandbox failed: {why.splitlines()[-1]}")
        printed = told.removeprefix(STARTED)
        if not printed.endswith(end.encode()):
            return None
        return printed[: -len(end)].decode(errors="replace")

    def _told(self, question: bytes, end: int) -> tuple[bytes, bytes]:
        """What comes out before a limit, and what bubblewrap had to say. Nothing runs any more afterwards."""
        pipe = subprocess.PIPE
        with tempfile.TemporaryFile() as asked:
            asked.write(question)
            asked.seek(0)
            with subprocess.Popen(
                _command(), stdin=asked, stdout=pipe, stderr=pipe, env={}, cwd="/", start_new_session=True
            ) as process:
                assert process.stdout is not None
                assert process.stderr is not None
                timer = threading.Timer(self.seconds, _kill, [process.pid])
                timer.start()
                try:
                    told = process.stdout.read(len(STARTED) + self.output + end)
                finally:
                    timer.cancel()
                    timer.join()
                    _kill(process.pid)
                return told, process.stderr.read()

    def _limits(self) -> dict[str, int]:
        return {
            "RLIMIT_CPU": math.ceil(self.seconds),
            "RLIMIT_AS": self.memory,
            "RLIMIT_NPROC": self.processes,
            "RLIMIT_FSIZE": self.output,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_CORE": 0,
        }


def _kill(session: int) -> None:
    """Bubblewrap and all that it has started, which at first does not know yet that it is to die with it."""
    with suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


@cache
def _command() -> tuple[str, ...]:
    """What starts a box. Root becomes nobody first, for the kernel does not limit how many processes root has; and
    since Python may be where only root looks, it does so in a view in which that can be seen."""
    bwrap, python = _found("bwrap"), str(_python())
    inside = (bwrap, *_isolation(), *_read_only(_needed()), "--remount-ro", "/")
    command = (*inside, "--", python, "-I", "-S", "-X", "utf8", "-c", INSIDE)
    if os.geteuid():
        return command
    setpriv = _found("setpriv")
    view = [*_needed(), File(bwrap), File(setpriv)]
    nobody = (setpriv, "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups")
    outside = (bwrap, "--die-with-parent", "--unshare-pid", *_read_only(view), "--proc", "/proc", "--dir", "/tmp")
    return (*outside, "--", *nobody, "--", *command)


def _isolation() -> Iterator[str]:
    yield from ("--die-with-parent", "--clearenv", "--hostname", "sandbox")
    yield from (
        "--unshare-user",
        "--disable-userns",
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-net",
    )
    yield from ("--unshare-cgroup-try", "--size", str(FOLDER), "--tmpfs", "/tmp", "--chdir", "/tmp")


def _read_only(files: Iterable[File]) -> Iterator[str]:
    """Files and folders under their own names, where everybody may look for them."""
    there = [file for file in dict.fromkeys(files) if file.exists()]
    folders = {folder for file in (*there, *DEVICES) for folder in file.parents} - {File("/")}
    for folder in sorted(folders):
        yield from ("--perms", "0755", "--dir", str(folder))
    for file in there:
        yield from ("--ro-bind", str(file), str(file))
    for device in DEVICES:
        yield from ("--dev-bind", str(device), str(device))


def _needed() -> list[File]:
    """What Python cannot do without."""
    libraries = [File("/lib"), File("/lib64"), File("/usr/lib"), File("/usr/lib64"), File("/etc/ld.so.cache")]
    return [_python(), File(sys.base_prefix) / "lib", *libraries]


def _python() -> File:
    """The interpreter itself, not a virtual environment's link to it."""
    return File(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"


def _found(tool: str) -> str:
    package = {"bwrap": "bubblewrap", "setpriv": "util-linux"}[tool]
    where = shutil.which(tool)
    if where is None:
        raise UsageError(f"{tool} is not installed; apt install {package}")
    return where


ORDINARY = """
import threading
with open("file", "w") as file: file.write("yes")
thread = threading.Thread(target=print, args=(open("file").read(),)); thread.start(), thread.join()
"""
REFUSED: Mapping[str, str] = {
    "reach the network": "import socket; socket.create_connection(('127.0.0.1', port), 1)",
    "read a file outside": "open(folder + '/secret')",
    "read /etc/passwd": "open('/etc/passwd')",
    "write a file outside": "open(folder + '/escaped', 'w')",
    "write into the root": "open('/escaped', 'w')",
    "write beside Python": "import os; open(os.path.dirname(os.__file__) + '/escaped', 'w')",
    "fill the memory": "bytearray(2**34)",
    "fill its folder": "for i in range(64): open(f'/tmp/{i}', 'wb').write(bytes(2**20))",
    "start processes without end": "import os, time\nfor _ in range(64): os.fork() or time.sleep(9)",
    "read the environment": "import os\nfor name in {*os.environ} - {'PWD', 'LC_CTYPE'}: break\nelse: raise OSError",
}
"""What a program must not be able to do, as statements that raise where it is not."""

ENDLESS: Mapping[str, str] = {
    "run without end": "while True: pass",
    "wait without end": "import time; time.sleep(30)",
    "print without end": "while True: print('more' * 9999)",
}


@cache
def _fault() -> str | None:
    """Why programs cannot be run here; None where they can, and stay in."""
    try:
        _command()
        return weakness(Sandbox(seconds=TRYING_SECONDS))
    except UsageError as error:
        return str(error)


def weakness(run: Runner) -> str | None:
    """The first thing that is wrong with a sandbox, after programs tried everything in it at once."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        (File(folder) / "secret").write_text("known", encoding="utf-8")
        known = f"folder, port = {folder!r}, {server.getsockname()[1]}\n"
        tried = {
            "an ordinary program does not run": (ORDINARY, "yes\n"),
            **{f"a program can {what}": (known + _refused(how), "no\n") for what, how in REFUSED.items()},
            **{f"a program can {what}": (how, None) for what, how in ENDLESS.items()},
        }
        with ThreadPoolExecutor(len(tried)) as pool:
            told = list(pool.map(lambda attempt: run(attempt[0], ""), tried.values()))
    wrong = (what for (what, (_, right)), said in zip(tried.items(), told, strict=True) if said != right)
    return next((f"{what} in the sandbox" for what in wrong), None)


def _refused(statements: str) -> str:
    """A program that prints `no` where it may not do that."""
    return f"try: exec({statements!r})\nexcept (OSError, MemoryError): print('no')"
