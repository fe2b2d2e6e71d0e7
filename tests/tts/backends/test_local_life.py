"""What becomes of a call whose caller, event loop or batch goes away, and of one that should not have been made."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the local backend's extra is not installed")

from tts.backends.base import Request  # noqa: E402
from tts.backends.local import LocalBackend  # noqa: E402
from tts.errors import BackendError, UsageError  # noqa: E402
from tts.halt import Halt  # noqa: E402
from tts.types import Completion, Message, Sampling  # noqa: E402
from tts.types import Path as Search  # noqa: E402

HOT = Sampling(temperature=1.0)
PATIENCE = 20.0


def request(text: str = "hello", most: int = 3, **options: Any) -> Request:
    path = options.pop("path", Search(start=(Message(role="user", content=text),)))
    values = {"sampling": HOT, "seed": 1, "halt": Halt(), **options}
    return Request(id="x;", path=path, prompt_tokens=0, max_tokens=most, **values)


def endless(**options: Any) -> Request:
    """A request that only a halt or a cancellation ends within a test's time: nothing else it draws can."""
    return request("long", 400, sampling=HOT.model_copy(update={"banned_ids": (257,)}), **options)


def generate(backend: LocalBackend, *requests: Request) -> list[Completion]:
    async def main() -> list[Completion]:
        return await asyncio.wait_for(asyncio.gather(*map(backend.generate, requests)), PATIENCE)

    return asyncio.run(main())


async def begun(backend: LocalBackend, rows: int = 1) -> None:
    await until(lambda: len(backend._lane("x;").batch.rows) >= rows)


async def until(happened: Callable[[], bool]) -> None:
    for _ in range(int(PATIENCE * 1000)):
        if happened():
            return
        await asyncio.sleep(0.001)
    raise TimeoutError


def test_a_cancelled_call_stops_being_decoded(folder: Path) -> None:
    backend = LocalBackend(folder)

    async def main() -> None:
        call = asyncio.create_task(backend.generate(endless()))
        await begun(backend)
        call.cancel()
        driver = backend._lane("x;").driver
        assert driver is not None
        await asyncio.wait_for(asyncio.shield(driver), PATIENCE)

    asyncio.run(main())
    assert not backend._lane("x;").running
    assert not backend._lane("x;").batch.rows
    assert 1 <= backend.generated < 400


def test_a_call_cancelled_while_it_waits_is_never_begun(folder: Path) -> None:
    backend = LocalBackend(folder, max_rows=1)

    async def main() -> Completion:
        halt = Halt()
        long = asyncio.create_task(backend.generate(endless(halt=halt)))
        waiting = asyncio.create_task(backend.generate(request("waiting", 50)))
        await begun(backend)
        waiting.cancel()
        await asyncio.wait([waiting])
        halt.set("cancelled")
        return await long

    completion = asyncio.run(main())
    generate(backend, request(most=1))
    assert backend.generated == completion.usage.completion_tokens + 1


def test_a_halted_call_does_not_wait_for_a_place(folder: Path) -> None:
    backend = LocalBackend(folder, max_rows=1)

    async def main() -> tuple[Completion, bool]:
        halt = Halt()
        long = asyncio.create_task(backend.generate(endless()))
        waiting = asyncio.create_task(backend.generate(request("waiting", 50, halt=halt)))
        await begun(backend)
        halt.set("stopped")
        halted = await asyncio.wait_for(waiting, PATIENCE)
        return halted, long.done()

    halted, long_done = asyncio.run(main())
    assert (halted.finish, halted.text, halted.usage.completion_tokens) == ("halted", "", 0)
    assert not long_done


def test_a_row_that_ends_while_its_event_loop_closes_gives_its_place_back(folder: Path) -> None:
    backend = LocalBackend(folder, max_rows=1)
    watching, closed = threading.Event(), threading.Event()

    def watch(so_far: Completion) -> bool:
        watching.set()
        return closed.wait(PATIENCE)

    async def leave_in_the_middle_of_a_step() -> None:
        call = asyncio.create_task(backend.generate(request("a", 50, watch=watch)))
        await until(watching.is_set)
        assert not call.done()

    asyncio.run(leave_in_the_middle_of_a_step())
    closed.set()
    (completion,) = generate(backend, request("b", 1))
    assert completion.usage.completion_tokens == 1
    assert not backend._lane("x;").running


def test_a_step_that_was_never_begun_when_its_event_loop_closed_is_forgotten(folder: Path) -> None:
    backend = LocalBackend(folder, max_rows=1)
    closed = threading.Event()
    backend._lane("x;").thread.submit(closed.wait, PATIENCE)

    async def leave_before_the_step() -> None:
        call = asyncio.create_task(backend.generate(request("a", 50)))
        await until(lambda: bool(backend._lane("x;").running))
        assert not call.done()

    asyncio.run(leave_before_the_step())
    closed.set()
    assert generate(backend, request("b", 1))[0].usage.completion_tokens == 1
    assert not backend._lane("x;").running


def test_one_backend_serves_one_event_loop_after_another(folder: Path) -> None:
    backend = LocalBackend(folder)
    completions = [generate(backend, request("same", 10))[0] for _ in range(4)]
    assert len({completion.token_ids for completion in completions}) == 1
    assert backend.generated == sum(completion.usage.completion_tokens for completion in completions)


def _breaks(so_far: Completion) -> bool:
    raise ValueError("a bug of the caller's")


def test_a_watch_that_raises_fails_its_batch_and_leaves_nobody_waiting(folder: Path) -> None:
    backend = LocalBackend(folder)

    async def main() -> list[Completion | BaseException]:
        calls = [backend.generate(request("a", watch=_breaks)), backend.generate(request("b"))]
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), PATIENCE)

    errors = asyncio.run(main())
    assert [type(error) for error in errors] == [BackendError, BackendError]
    assert "a bug of the caller's" in str(errors[0])
    assert generate(backend, request("c", 2))[0].usage.completion_tokens >= 1


@pytest.mark.parametrize("most", [1, 3])
def test_rows_that_failed_are_counted_like_others(folder: Path, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = LocalBackend(folder)
    patience = iter(range(most))
    run = backend._model.model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if next(patience, None) is None:
            raise RuntimeError("out of memory\nand much advice")
        return run(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(backend._model.model, "forward", forward)
        with pytest.raises(BackendError, match="out of memory"):
            generate(backend, endless())
    assert backend.generated == most
    assert generate(backend, request(most=1))[0].finish == "length"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": Search(start=(1, 100_000))}, "has no token 100000; its last one is 258"),
        ({"path": Search(start=(-1,))}, "has no token -1"),
        ({"sampling": Sampling(banned_ids=(5, 259))}, "has no token 259"),
    ],
)
def test_a_token_that_the_model_does_not_have_is_refused_before_it_can_break_a_batch(
    folder: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        generate(LocalBackend(folder), request(**options))


def test_an_empty_prompt_is_refused(tmp_path: Path) -> None:
    from tests.tts.backends.conftest import build

    backend = LocalBackend(build(tmp_path / "bare", "Llama", None))
    with pytest.raises(UsageError, match="empty prompt"):
        generate(backend, request(""))
