from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from evals.lab.tokens import ALPHABETS
from evals.suites import SUITES, base
from tts.errors import UsageError

LINE = {"id": "a", "problem": "6 * 7?", "answer": "42"}
HUB: Mapping[str, tuple[dict[str, Any], str, str]] = {
    "gsm8k": ({"question": "How many?", "answer": "12 * 100 = <<12*100=1200>>1200\n#### 1,200"}, "1200", ""),
    "math500": (
        {"unique_id": "test/x.json", "problem": "Half?", "answer": "\\frac{1}{2}", "level": 3, "subject": "Algebra"},
        "\\frac{1}{2}",
        "level 3",
    ),
    "aime24": ({"id": 60, "problem": "Aya walks.", "answer": "204", "solution": "…"}, "204", ""),
    "aime25": ({"id": "0", "problem": "Sum of bases?", "answer": "070"}, "70", ""),
    "amc23": ({"id": 3, "question": "How far?", "answer": 27.0}, "27", ""),
}


def write(folder: Path, *lines: Any) -> Path:
    file = folder / "problems.jsonl"
    file.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines), encoding="utf-8")
    return file


@pytest.mark.parametrize("name", HUB)
def test_a_hub_data_set_is_read_in_its_own_format(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    columns, answer, group = HUB[name]
    monkeypatch.setattr(base, "_download", lambda dataset, subset, split: [columns])
    (item,) = SUITES[name].items("test", None)
    assert (item.reference, item.group) == (answer, group)
    assert str(columns.get("problem", columns.get("question"))) in item.problem.messages[0].content
    assert answer not in item.problem.model_dump_json().replace("\\\\", "\\")
    assert SUITES[name].right(item, answer)
    assert not SUITES[name].right(item, "7")


def test_a_hub_that_cannot_be_reached_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def unreachable(*args: object, **options: object) -> None:
        raise ConnectionError("no route to host\nand a long story")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        UsageError, match=r"cannot load openai/gsm8k \(test\).*no route to host; for a local copy: --data"
    ):
        SUITES["gsm8k"].items("test", 3)


def test_a_file_replaces_the_hub_and_its_level_is_the_group(tmp_path: Path) -> None:
    file = write(tmp_path, {**LINE, "level": 5, "subject": "x"}, "", {**LINE, "id": 7, "answer": 12})
    items = SUITES["math500"].items("test", None, file)
    assert [(item.problem.id, item.reference, item.group) for item in items] == [
        ("a", "42", "level 5"),
        ("7", "12", ""),
    ]
    assert len(SUITES["math500"].items("test", 1, file)) == 1


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([LINE, "{torn"], "line 2 is no problem"),
        ([LINE, [1, 2]], "line 2 is no problem: is no JSON object"),
        ([LINE, {"id": "b", "problem": "x"}], "line 2: answer: Field required"),
        ([LINE, {**LINE, "id": "b", "answer": ""}], "line 2: answer"),
        ([LINE, {**LINE, "id": "b", "answer": None}], "line 2: answer"),
        ([LINE, LINE], "two problems with the id 'a'"),
        ([""], "holds no problems"),
    ],
)
def test_a_malformed_file_is_refused_by_its_line(lines: list[Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=complaint):
        SUITES["gsm8k"].items("test", None, write(tmp_path, *lines))


def test_a_byte_order_mark_at_the_beginning_of_a_file_is_no_part_of_it(tmp_path: Path) -> None:
    file = write(tmp_path, LINE)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert [item.reference for item in SUITES["gsm8k"].items("test", None, file)] == ["42"]


def test_a_missing_file_and_one_that_is_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the problems in"):
        SUITES["gsm8k"].items("test", None, tmp_path / "none.jsonl")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot read the problems in"):
        SUITES["gsm8k"].items("test", None, tmp_path / "bytes")


def test_a_split_that_a_suite_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="no split 'dev'; it has test"):
        SUITES["gsm8k"].items("dev", 1)


@pytest.mark.parametrize("name", ["math500", "aime24", "gsm8k_first400"])
def test_real_copies_of_the_data_are_read_whole_and_their_references_are_right(name: str) -> None:
    folder = os.environ.get("TTS_DATA")
    if not folder:
        pytest.skip("TTS_DATA names no folder with math500.jsonl, aime24.jsonl and gsm8k_first400.jsonl")
    suite = SUITES[name.split("_")[0]]
    items = suite.items("test", None, Path(folder) / f"{name}.jsonl")
    assert len(items) == {"math500": 500, "aime24": 30, "gsm8k_first400": 400}[name]
    assert all(suite.right(item, item.reference) for item in items)


def test_the_saved_tokenizer_spells_as_the_trainer_does() -> None:
    pytest.importorskip("transformers")
    for task, alphabet in ALPHABETS.items():
        saved = alphabet.tokenizer()
        strange = ["=007\n", "1234", "a=02+14"]  # what a model can write though no problem holds it
        for text in [item.problem.messages[0].content for item in SUITES[task].items("dev", 20)] + strange:
            assert saved(text, add_special_tokens=False)["input_ids"] == alphabet.encode(text)
            assert saved.decode(alphabet.encode(text)) == text
        assert len(saved) == len(alphabet.tokens)
