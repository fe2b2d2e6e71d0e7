# mypy: ignore-errors
"""What every driver shares; it needs nothing but Python.

Standard input: one JSON line that says what to do, one per job (`id`, `prompt`, `n` samples), an empty line; then
"cancel", perhaps; its end lets the driver go. Standard output: one JSON line per job as it ends.
"""

import asyncio
import json
import os
import re
import signal
import sys
import threading
import time

_OUT = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what libraries print belongs to the log


def read():
    """What to do, and the jobs."""
    setup = json.loads(sys.stdin.readline())
    return setup, [json.loads(line) for line in iter(sys.stdin.readline, "\n")]


def stated(pattern, text):
    """The answer that a text states, by the same rule as everywhere; None where it states none."""
    found = re.search(pattern, text or "")
    return found[1] if found else None


def report(job, began, text=None, tokens=None, error=None):
    """Tell how a job ended; `tokens` is what the tool says it used, None where it says nothing."""
    outcome = {"id": job["id"], "text": text, "tokens": tokens, "seconds": time.perf_counter() - began, "error": error}
    _OUT.write(json.dumps(outcome) + "\n")


async def drive(solve, jobs, concurrency, cancel=None):
    """Run `solve(job) -> (text, tokens)` for all jobs. When "cancel" is read, call `cancel`, or else cancel the tasks.
    Returns at the end of the standard input."""
    places = asyncio.Semaphore(concurrency)

    async def one(job):
        async with places:
            began = time.perf_counter()
            try:
                report(job, began, *await solve(job))
            except asyncio.CancelledError:
                report(job, began, error="cancelled")
            except Exception as error:  # noqa: BLE001  whatever a tool raises is how its job ended
                report(job, began, error=f"{type(error).__name__}: {error}")

    tasks = [asyncio.ensure_future(one(job)) for job in jobs]

    def stop():
        for task in tasks:
            task.cancel()

    if await _line() == "cancel\n":
        (cancel or stop)()
        await _line()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _line():
    """The next line of standard input, read in a thread that an end of the program need not wait for."""
    loop, line = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def wait():
        found = sys.stdin.readline()
        loop.call_soon_threadsafe(line.set_result, found)

    threading.Thread(target=wait, daemon=True).start()
    return await line


def drive_threads(solve, jobs, concurrency):
    """The same for a library without asyncio: a thread per job in work, and Ctrl-C is how one cancels."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may inherit deafness to it
    waiting = iter(jobs)
    lock = threading.Lock()

    def work():
        while True:
            with lock:
                job = next(waiting, None)
            if job is None:
                return
            began = time.perf_counter()
            try:
                report(job, began, *solve(job))
            except Exception as error:  # noqa: BLE001  whatever a tool raises is how its job ended
                report(job, began, error=f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, daemon=True) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdin.read()
