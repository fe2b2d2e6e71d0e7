"""Run by SGLang's Python: imports what a server needs once, and forks a server for every line that comes.

A line is JSON, `{"arguments": [...], "folder": ...}`; the answer is the server's process id, which is that of its
process group too. What the server prints goes to `log` in its folder. It ends, and all servers with it, when whoever
asks has ended: the folders of those that were still there are then gone too.
"""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path as File

ASKING = 0
"""The descriptor of the socket to whoever asks."""
MODULE = "sglang.launch_server"
"""What a server is: it is run as `python -m` would, so it must not have been imported."""
IMPORTED = (
    "sglang.srt.entrypoints.http_server",
    "sglang.srt.managers.scheduler",
    "sglang.srt.managers.detokenizer_manager",
)
"""What takes the seconds. Not `prometheus_client`, which decides on being imported where its counters are."""


def prepare() -> None:
    """Import everything. No thread may be running afterwards: a fork has none but its own, and keeps the others'
    locks."""
    for name in IMPORTED:
        importlib.import_module(name)
    importlib.import_module("sglang.srt.models.registry").import_model_classes("sglang.srt.models")
    gc.collect()
    gc.freeze()  # what no server's collector walks through, no server has to copy
    threads = len(list(File("/proc/self/task").iterdir()))
    assert threads == 1, f"{threads} threads"
    assert "prometheus_client" not in sys.modules


def main() -> None:
    """Fork until nobody asks any more."""
    prepare()
    folders: dict[int, str] = {}
    for line in sys.stdin:
        forget_ended(folders)
        request = json.loads(line)
        process = os.fork()
        if not process:
            serve(**request)
            return
        os.setpgid(process, process)  # here, so that a kill finds the group as soon as the process is known
        folders[process] = request["folder"]
        os.write(ASKING, f"{process}\n".encode())
    forget_ended(folders)
    for process, folder in folders.items():
        os.killpg(process, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def forget_ended(servers: dict[int, str]) -> None:
    """Leave out the servers that have ended: until they are waited for, nobody else gets their process ids."""
    with suppress(ChildProcessError):
        while process := os.waitpid(-1, os.WNOHANG)[0]:
            del servers[process]


def serve(arguments: list[str], folder: str) -> None:
    """Be a server."""
    importlib.import_module("sglang.srt.utils").kill_itself_when_parent_died()
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(File(folder) / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for descriptor, onto in ((nothing, ASKING), (log, 1), (log, 2)):
        os.dup2(descriptor, onto)
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    importlib.import_module("numpy").random.seed()  # Python's own is seeded anew by a fork
    keep_forking()
    sys.argv[1:] = arguments
    try:
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
    finally:
        gc.unfreeze()  # or libraries end the log with all that they think has leaked


def keep_forking() -> None:
    """SGLang wants its processes spawned, because of CUDA: each would import everything again."""
    multiprocessing.set_start_method("fork")
    multiprocessing.set_start_method = lambda *_, **__: None


if __name__ == "__main__":
    main()
