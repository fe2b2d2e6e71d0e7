"""A GGUF file of two layers, unpacked into a cache of its own; and weights that would compute something else."""

from __future__ import annotations

import asyncio
import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the local backend's extra is not installed")

from tts.backends import weights  # noqa: E402
from tts.backends.base import Request  # noqa: E402
from tts.backends.local import LocalBackend  # noqa: E402
from tts.errors import UsageError  # noqa: E402
from tts.halt import Halt  # noqa: E402
from tts.types import Completion, Sampling  # noqa: E402
from tts.types import Path as Search  # noqa: E402

BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


@pytest.fixture(scope="session")
def gguf(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama as llama.cpp would keep it."""
    import gguf
    from transformers import LlamaForCausalLM

    model, file = LlamaForCausalLM.from_pretrained(folder), tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    _describe(writer, model.config, folder)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(_name(name), _rotated(name, tensor, model.config).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _describe(writer: Any, config: Any, folder: Path) -> None:
    from tokenizers import Tokenizer

    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10_000.0)
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    writer.add_tokenizer_model("gpt2")
    # A list of merges must not be empty, so the last token becomes one.
    writer.add_token_list([*sorted(vocabulary, key=lambda token: vocabulary[token])[:-1], "ab"])
    writer.add_token_types([1] * 256 + [3] * 2 + [1])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(config.eos_token_id)


def _name(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{BLOCK[part]}.{kind}"


def _rotated(name: str, tensor: Any, config: Any) -> Any:
    """Llama.cpp pairs neighbouring rows for the rotary embedding, transformers the halves of a head."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    return tensor.reshape(heads, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "test-time-scaling" / "weights"


def continued(backend: LocalBackend) -> Completion:
    path = Search(start=(1, 2, 3, 4, 5))
    greedy = Sampling(temperature=0.0)
    request = Request(id="x;", path=path, prompt_tokens=5, max_tokens=20, sampling=greedy, seed=0, halt=Halt())
    return asyncio.run(backend.generate(request))


def test_a_gguf_file_computes_what_the_folder_it_was_made_of_does(gguf: Path, folder: Path, cache: Path) -> None:
    unpacked, original = continued(LocalBackend(gguf)), continued(LocalBackend(folder))
    assert unpacked.token_ids == original.token_ids
    assert unpacked.logprob == pytest.approx(original.logprob, abs=1e-3)


def test_a_gguf_file_is_unpacked_once_in_silence(gguf: Path, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    notices = list[str]()
    first, second = weights.folder_of(gguf, notices.append), weights.folder_of(gguf, notices.append)
    assert first == second
    assert first.parent == cache
    assert notices == [f"unpacking tiny.gguf into {first} (once)"]
    assert capfd.readouterr() == ("", "")


def test_an_interrupted_unpacking_leaves_nothing_half_done(
    gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    def interrupted(model: object, folder: Path) -> None:
        (folder / "config.json").write_text("{")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LlamaForCausalLM, "save_pretrained", interrupted)
        with pytest.raises(KeyboardInterrupt):
            weights.folder_of(gguf, lambda message: None)
    assert not list(cache.iterdir())
    assert (weights.folder_of(gguf, lambda message: None) / "model.safetensors").is_file()


@pytest.mark.parametrize("full", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("No space left\n…")])
def test_a_disk_that_fills_up_is_one_clear_line(
    gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, full: Exception
) -> None:
    from transformers import LlamaForCausalLM

    def fills(model: object, folder: Path) -> None:
        raise full

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", fills)
    with pytest.raises(UsageError, match=r"cannot unpack tiny.gguf.*No space left") as error:
        weights.folder_of(gguf, lambda message: None)
    assert "\n" not in str(error.value)
    assert not list(cache.iterdir())


@pytest.mark.parametrize("kept", [0, 4, 100, 20_000])
def test_a_torn_gguf_file_is_one_clear_line(gguf: Path, cache: Path, tmp_path: Path, kept: int) -> None:
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(gguf.read_bytes()[:kept])
    with pytest.raises(UsageError, match="cannot read the model") as error:
        weights.folder_of(torn, lambda message: None)
    assert "\n" not in str(error.value)
    assert not list(cache.iterdir())


def test_quiet_leaves_transformers_as_it_was() -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    for switch in (logging.disable_progress_bar, logging.enable_progress_bar):
        switch()
        enabled = logging.is_progress_bar_enabled()
        with weights.quiet():
            assert not logging.is_progress_bar_enabled()
        assert logging.is_progress_bar_enabled() == enabled
    assert before == (logging.get_verbosity(), logging.is_progress_bar_enabled())


@pytest.mark.parametrize("content", ["[]", "3", '"llama"'])
def test_a_configuration_that_is_no_object_is_one_clear_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UsageError, match="no JSON object"):
        LocalBackend(tmp_path)


def test_a_weight_that_is_missing_is_never_made_up(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folder, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"lack model.layers.1.mlp.up_proj.weight"):
        LocalBackend(copy)


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("name", ["type", "rope_type"])
def test_positions_that_depend_on_the_longest_row_are_refused(
    folder: Path, tmp_path: Path, key: str, name: str
) -> None:
    config = {**weights.read_config(folder), "rope_parameters": None, key: {name: "dynamic", "factor": 2.0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="by the length of the text"):
        weights.read_config(tmp_path)
