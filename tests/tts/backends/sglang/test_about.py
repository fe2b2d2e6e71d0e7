from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.tts.backends.conftest import build
from tts.backends.sglang.about import capabilities_of, folder_of, parameters_of, read_config
from tts.backends.sglang.replica import TOLERATED, Breaker
from tts.errors import UsageError


@pytest.mark.parametrize("architecture", ["Llama", "Qwen2", "Qwen3"])
def test_the_parameters_are_counted_as_the_local_engine_counts_them(tmp_path: Path, architecture: str) -> None:
    pytest.importorskip("torch", reason="the local backend's extra is not installed")
    from tts.backends.local import LocalBackend

    folder = build(tmp_path, architecture)
    assert parameters_of(read_config(folder)) == LocalBackend(folder).info.parameters


def test_of_many_experts_only_those_that_a_token_meets_are_counted() -> None:
    """Qwen3-30B-A3B, which its name says has 3 B active."""
    config = {
        **{"model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32},
        **{"num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151_936, "num_experts": 128},
        **{"num_experts_per_tok": 8, "moe_intermediate_size": 768, "intermediate_size": 6144},
    }
    assert parameters_of(config) == pytest.approx(3.3e9, rel=0.05)


def test_a_tokenizer_that_is_not_here_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tokenizer = … of its profile in tts.toml"):
        folder_of({"tokenizer_path": str(tmp_path / "far")}, None)


def test_a_broken_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match="cannot read"):
        read_config(tmp_path)


def test_a_text_model_inside_another_is_the_one_that_counts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 1, "text_config": {"hidden_size": 8}}))
    assert read_config(tmp_path)["hidden_size"] == 8


def test_log_probabilities_are_offered_where_they_are_the_models_own() -> None:
    assert "logprobs" in capabilities_of({"original_logprobs": True})
    assert "logprobs" not in capabilities_of({"original_logprobs": False})
    assert capabilities_of({"is_generation": False}) == {"prefill_score", "abort"}


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_try_again() -> None:
    breaker = Breaker()
    for _ in range(TOLERATED - 1):
        breaker.failed()
    assert breaker.closed
    breaker.failed()
    assert not breaker.closed
    assert breaker.resting
    breaker.answered()
    assert breaker.closed
    breaker.failed()
    assert not breaker.closed
    breaker.succeeded()
    breaker.failed()
    assert breaker.closed


def test_the_calls_that_a_server_took_with_it_do_not_prolong_its_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    breaker = Breaker()
    for _ in range(64):
        breaker.failed()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1.0)
    assert not breaker.resting
    breaker.failed()
    assert breaker.resting


def test_a_server_that_is_gone_is_left_alone_at_once() -> None:
    breaker = Breaker()
    breaker.failed(gone=True)
    assert not breaker.closed
