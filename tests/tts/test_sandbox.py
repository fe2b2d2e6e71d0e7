from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from tts.errors import UsageError
from tts.sandbox import ENDLESS, ORDINARY, REFUSED, Sandbox, weakness

ROOT = Path(__file__).parents[2]
PROBE = ("bwrap", "--unshare-user", "--unshare-net", "--ro-bind", "/", "/", "true")
FOREVER = "from tts.sandbox import Sandbox; Sandbox(seconds=60)('while True: pass', '')"


@pytest.fixture
def box() -> Sandbox:
    """Skips where bubblewrap does nothing, and only there: a weak sandbox must not pass for a missing one."""
    if trouble := no_bubblewrap():
        pytest.skip(trouble)
    return Sandbox().checked()


@cache
def no_bubblewrap() -> str | None:
    """Why there can be no sandbox here, whatever our code does."""
    try:
        tried = subprocess.run(PROBE, capture_output=True, text=True)
    except FileNotFoundError:
        return "bubblewrap is not installed"
    return f"bubblewrap does not work here: {tried.stderr.strip()}" if tried.returncode else None


def test_a_program_is_answered_with_what_it_prints(box: Sandbox) -> None:
    assert box("print('grün')", "") == "grün\n"
    assert box("def double(x): return 2 * x", "print(double(4))") == "8\n"


def test_a_test_passes_in_silence_and_fails_as_nothing(box: Sandbox) -> None:
    assert box("def double(x): return 2 * x", "assert double(4) == 8") == ""
    assert box("def double(x): return x", "assert double(4) == 8") is None


@pytest.mark.parametrize("program", ["def f(", "raise ValueError", "print('\ud800')", "x = '\0'", "\0", "input()"])
def test_a_program_that_does_not_work_has_no_output(program: str, box: Sandbox) -> None:
    assert box(program, "") is None


@pytest.mark.parametrize("leave", ["exit()", "import sys; sys.exit(0)", "import os; os._exit(0)"])
def test_whoever_leaves_before_the_end_has_not_passed(leave: str, box: Sandbox) -> None:
    assert box(leave, "assert False") is None
    assert box(f"def f(): {leave}", "assert f() == 1") is None


def test_a_script_may_end_by_leaving_with_success(box: Sandbox) -> None:
    assert box("print(1); exit()", "") == "1\n"
    assert box("print(1); exit(2)", "") is None


def test_a_tested_program_is_imported_and_a_script_is_run(box: Sandbox) -> None:
    program = "if __name__ == '__main__': print('demonstration')"
    assert box(program, "") == "demonstration\n"
    assert box(program, "pass") == ""


def test_a_data_class_with_postponed_annotations_finds_its_module(box: Sandbox) -> None:
    program = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int"
    assert box(program, "assert A(1).x == 1") == ""


def test_a_child_process_does_not_speak_for_its_parent(box: Sandbox) -> None:
    assert box("import os\nif os.fork(): os._exit(1)", "") is None
    assert box("import os\nif os.fork(): os.wait()", "print(1)") == "1\n1\n"


def test_what_one_program_writes_the_next_one_does_not_find(box: Sandbox) -> None:
    assert box("open('left', 'w').write('x'); print(open('left').read())", "") == "x\n"
    assert box("print(open('left').read())", "") is None


def test_output_up_to_the_limit_is_whole_and_beyond_it_is_none(box: Sandbox) -> None:
    small = box.model_copy(update={"output": 100})
    assert small("print('x' * 99)", "") == "x" * 99 + "\n"
    assert small("print('x' * 100)", "") is None


def test_a_program_without_end_is_ended_in_time_with_all_that_it_started(box: Sandbox) -> None:
    began = time.monotonic()
    program = "import os, time\nos.fork(), os.setsid()\ntime.sleep(60)"
    assert box.model_copy(update={"seconds": 1.0})(program, "") is None
    assert time.monotonic() - began < 3
    assert not descendants(os.getpid())


def test_limits_cannot_be_raised_from_within(box: Sandbox) -> None:
    program = "import resource as r\nfor limit in (r.RLIMIT_AS, r.RLIMIT_NPROC, r.RLIMIT_FSIZE):\n"
    program += "    try: r.setrlimit(limit, (2**40, 2**40)); print('raised')\n    except ValueError: pass"
    assert box(program, "") == ""


def test_a_sandbox_that_cannot_start_says_so_instead_of_blaming_the_program(box: Sandbox) -> None:
    with pytest.raises(UsageError, match="the sandbox failed: nothing started in 1e-05 s"):
        box.model_copy(update={"seconds": 1e-5})("print(1)", "")


def test_a_time_that_ends_while_the_sandbox_starts_ends_all_of_it(box: Sandbox) -> None:
    for milliseconds in range(20):
        began = time.monotonic()
        with suppress(UsageError):
            box.model_copy(update={"seconds": 1e-5 + milliseconds / 1000})("import time; time.sleep(5)", "")
        assert time.monotonic() - began < 2
    assert not descendants(os.getpid())


def test_a_sandbox_travels_and_is_called_the_same_on_every_machine(box: Sandbox) -> None:
    assert pickle.loads(pickle.dumps(box))("print(1)", "") == "1\n"
    assert repr(Sandbox()) == "Sandbox(seconds=5.0, memory=536870912, processes=16, output=1048576)"


def test_it_dies_with_whoever_started_it(box: Sandbox) -> None:
    with subprocess.Popen([sys.executable, "-c", FOREVER], cwd=ROOT) as starter:
        inside: list[int] = []
        while not any("python" in command(each).split("\0")[0] for each in inside):
            assert starter.poll() is None
            time.sleep(0.05)
            inside = descendants(starter.pid)
        time.sleep(0.5)  # until it is in its loop: before, it would end by itself, having nobody to tell that it began
        starter.kill()
    for _ in range(100):
        if not any(map(runs, inside)):
            return
        time.sleep(0.05)
    pytest.fail("something outlived its starter")


def test_without_bubblewrap_the_reason_and_the_way_out_are_one_sentence() -> None:
    code = "from tts.sandbox import Sandbox; Sandbox().checked()"
    ran = subprocess.run([sys.executable, "-c", code], env={"PATH": ""}, cwd=ROOT, capture_output=True, text=True)
    assert ran.stderr.splitlines()[-1].endswith("unit tests are off: bwrap is not installed; apt install bubblewrap")


def good(program: str, given: str) -> str | None:
    """What a sandbox says to the programs that try it."""
    if program == ORDINARY:
        return "yes\n"
    return None if program in ENDLESS.values() else "no\n"


@pytest.mark.parametrize(
    ("weak", "told"),
    [(what, how) for what, how in REFUSED.items()] + [(what, how) for what, how in ENDLESS.items()],
    ids=[*REFUSED, *ENDLESS],
)
def test_a_sandbox_with_any_weakness_is_not_used(weak: str, told: str) -> None:
    assert weakness(good) is None
    leaky = weakness(lambda program, given: "" if told in program or repr(told) in program else good(program, given))
    assert leaky == f"a program can {weak} in the sandbox"


def test_a_sandbox_that_runs_nothing_is_not_used() -> None:
    assert weakness(lambda program, given: None) == "an ordinary program does not run in the sandbox"


def descendants(pid: int) -> list[int]:
    """Every process of a sandbox below one, however deep."""
    parents = {each: parent for each, (state, parent) in processes().items() if state != "Z"}
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return [each for each in found[1:] if "bwrap" in command(each) or "\0-I\0-S\0" in command(each)]


def processes() -> dict[int, tuple[str, int]]:
    """The state and the parent of every process."""
    told = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = file.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        told[int(file.parent.name)] = state, int(parent)
    return told


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def runs(pid: int) -> bool:
    return processes().get(pid, ("Z", 0))[0] != "Z"
