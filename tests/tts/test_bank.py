"""Banks: what is put in comes out, once, whatever happens in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from tts.backends.fake import FAKE
from tts.bank import FILLING, PROBLEMS, SAMPLES, Asked, Bank, Complete, Drawn, Filling, Manifest, Source
from tts.errors import UsageError
from tts.types import Completion, Message, Sampling, Usage

SAMPLING = Sampling(max_tokens=64)
MANIFEST = Manifest(model=FAKE, sampling=SAMPLING, source=Source(suite="chain", split="dev"))


def asked(name: str, text: str = "what?") -> Asked:
    return Asked(id=name, start=(Message(role="user", content=text + name),), prompt_tokens=7)


def drawn(problem: str, number: int, text: str = "so 4") -> Drawn:
    usage = Usage.of(prompt=7, cached=0, completion=3, seconds=0.5)
    completion = Completion(
        text=text, token_ids=(1, 2, 3), logprob=-1.5, self_certainty=None, finish="stop", usage=usage
    )
    return Drawn(problem=problem, seed=0, number=number, completion=completion)


def filled(folder: Path, problems: str = "ab", samples: int = 3) -> Path:
    with Filling(folder, MANIFEST) as filling:
        for problem in problems:
            filling.ask(asked(problem))
            for number in range(samples):
                filling.add(drawn(problem, number))
            filling.complete(Complete(problem=problem, seed=0, samples=samples))
    return folder


def test_what_is_put_in_comes_out(tmp_path: Path) -> None:
    bank = Bank(filled(tmp_path / "bank"))
    assert bank.manifest == MANIFEST
    assert list(bank.problems) == ["a", "b"]
    assert bank.samples("b") == [drawn("b", number) for number in range(3)]
    assert bank.rows("a")[0] == [(0, 0), (0, 1), (0, 2)]


def recorded(folder: Path) -> list[int]:
    """How many samples of a, b and c there are, those of interrupted fillings too."""
    return [len(Bank(folder).samples(problem, unfinished=True)) for problem in "abc"]


def test_a_kill_loses_nothing_and_nothing_counts_twice(tmp_path: Path) -> None:
    folder = filled(tmp_path / "bank")
    killed = Filling(folder, MANIFEST)
    killed.ask(asked("c"))
    for number in range(2, 5):
        killed.add(drawn("a", number))
    killed.add(drawn("c", 0))
    killed.close()
    with (folder / FILLING).open("a") as out:
        out.write('{"problem": "c", "se')
    assert recorded(folder) == [5, 3, 1]
    loose = (folder / FILLING).read_bytes()
    with Filling(folder, MANIFEST) as again:
        assert list(again.known("a", 0, 4)) == [0, 1, 2, 3]
        again.add(drawn("c", 1))
    (folder / FILLING).write_bytes(loose)  # as if the kill had come between the file and the end of the loose ones
    assert recorded(folder) == [5, 3, 2]


def test_samples_of_an_interrupted_filling_are_kept_and_not_shown(tmp_path: Path) -> None:
    folder = filled(tmp_path / "bank")
    with Filling(folder, MANIFEST) as filling:
        for number in (4, 6):
            filling.add(drawn("a", number))
        filling.add(drawn("b", 3))
        filling.complete(Complete(problem="b", seed=0, samples=4))
        with pytest.raises(AssertionError, match="2 samples of problem a are not there"):
            filling.complete(Complete(problem="a", seed=0, samples=5 + 2))
    bank = Bank(folder)
    assert bank.counts() == {"a": 3, "b": 4}
    assert [len(bank.samples(problem)) for problem in "ab"] == [3, 4]
    assert bank.unfinished() == 2


def test_a_file_never_takes_the_place_of_another(tmp_path: Path) -> None:
    folder = filled(tmp_path / "bank", "a")
    for problem in "bc":
        filled(folder, problem)
    (folder / SAMPLES / "00000.parquet").unlink()
    filled(folder, "d")
    assert sorted(file.name for file in (folder / SAMPLES).iterdir()) == [f"0000{i}.parquet" for i in (1, 2, 3)]


def test_samples_are_moved_into_files_before_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tts.bank.filling.SETTLE_TOKENS", 8)
    folder = filled(tmp_path / "bank")
    assert len(list((folder / SAMPLES).iterdir())) == 2
    assert [len(Bank(folder).samples(problem)) for problem in "ab"] == [3, 3]


def test_problems_that_got_lost_are_missed(tmp_path: Path) -> None:
    folder = filled(tmp_path / "bank")
    lines = (folder / PROBLEMS).read_text().splitlines(keepends=True)
    (folder / PROBLEMS).write_text(lines[0])
    with pytest.raises(UsageError, match="lacks 1 problem of which there are samples"):
        Bank(folder)


def test_a_bank_is_filled_by_one_process_with_one_kind_of_samples(tmp_path: Path) -> None:
    folder = filled(tmp_path / "bank")
    other = MANIFEST.model_copy(update={"sampling": Sampling(temperature=1.0)})
    with pytest.raises(UsageError, match="another sampling; name another folder"):
        Filling(folder, other)
    with Filling(folder, MANIFEST) as filling:
        with pytest.raises(UsageError, match="in use by another"):
            Filling(folder, MANIFEST)
        with pytest.raises(UsageError, match="problem a under another prompt"):
            filling.ask(asked("a", "who?"))


def test_a_file_of_another_bank_is_not_mixed_in(tmp_path: Path) -> None:
    folder = filled(tmp_path / "bank")
    warm = MANIFEST.model_copy(update={"sampling": Sampling(max_tokens=64, temperature=1.0)})
    with Filling(tmp_path / "warm", warm) as filling:
        filling.ask(asked("a"))
        filling.add(drawn("a", 7))
    (file,) = (tmp_path / "warm" / SAMPLES).glob("*.parquet")
    file.rename(folder / SAMPLES / "00007.parquet")
    with pytest.raises(UsageError, match=r"00007\.parquet belongs to another bank"):
        Bank(folder)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = filled(tmp_path / "bank")
    (file,) = (folder / SAMPLES).glob("*.parquet")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(UsageError, match=rf"{file.name} is damaged.*fill the bank again"):
        Bank(folder)
    with pytest.raises(UsageError, match="is no bank"):
        Bank(tmp_path)


def test_a_bank_whose_file_is_gone_says_so_and_the_same_filling_heals_it(tmp_path: Path) -> None:
    folder = filled(tmp_path / "bank")
    for file in (folder / SAMPLES).iterdir():
        file.unlink()
    lost = Bank(folder)
    assert lost.lacking == {"a": 3, "b": 3}
    with pytest.raises(
        UsageError, match=r"has lost 6 samples of 2 problems.*bank fill chain --split dev --limit 2 --sa"
    ):
        lost.check_whole()
    with Filling(folder, MANIFEST) as filling:
        assert filling.known("a", 0, 3) == {}
    filled(folder)
    healed = Bank(folder)
    healed.check_whole()
    assert healed.counts() == {"a": 3, "b": 3}


def test_damaged_bytes_behind_an_intact_end_are_named_with_their_file(tmp_path: Path) -> None:
    folder = filled(tmp_path / "bank", samples=40)
    (file,) = (folder / SAMPLES).iterdir()
    whole = bytearray(file.read_bytes())
    whole[4 : len(whole) // 3] = b"\xff" * (len(whole) // 3 - 4)
    file.write_bytes(whole)
    with pytest.raises(UsageError, match=r"00000.parquet is damaged"):
        Bank(folder).samples("a")
