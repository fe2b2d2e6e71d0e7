from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the local backend's extra is not installed")

from service.options import open_backend  # noqa: E402
from strategies import ETS  # noqa: E402
from tests.fakes import PROBLEM  # noqa: E402
from tests.strategies.scripted import searched  # noqa: E402
from tts.backends.base import Reading  # noqa: E402
from tts.backends.encoding import EncoderBackend  # noqa: E402
from tts.cost import flops  # noqa: E402
from tts.errors import UsageError  # noqa: E402
from tts.halt import Halt  # noqa: E402
from tts.journal import Settled  # noqa: E402
from tts.types import Message, Sheet, Verdicts  # noqa: E402
from tts.types import Path as Grown  # noqa: E402

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijkl"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT whose words are letters, and whose tokenizer would cut a text after four of them."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.enable_truncation(6)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
        initializer_range=0.5,
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def sheet(text: str) -> Sheet:
    return Sheet(before="", pieces=(text,))


def read(backend: EncoderBackend, *texts: str, halt: Halt | None = None) -> list[Verdicts]:
    """What is said of the texts, asked at once."""

    async def all_at_once() -> list[Verdicts]:
        stop = halt or Halt()
        readings = [Reading(f"job:{i};", sheet(t), backend.sheet_tokens(sheet(t)), stop) for i, t in enumerate(texts)]
        return list(await asyncio.gather(*map(backend.read, readings)))

    return asyncio.run(all_at_once())


def vector(verdicts: Verdicts) -> tuple[float, ...]:
    assert verdicts.pieces is not None
    ((found,),) = verdicts.pieces
    return found


def reference(folder: Path, ids: list[int]) -> Any:
    """The mean of the last states, read by itself with transformers."""
    import transformers

    model = transformers.BertModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return torch.nn.functional.normalize(states.mean(0), dim=0)


def test_a_text_is_the_mean_of_its_states_whoever_is_read_beside_it(encoder: Path) -> None:
    backend = EncoderBackend(encoder)
    short, long = read(backend, "a b", "c d e f g h i")
    for said, ids in ((short, [2, 4, 5, 3]), (long, [2, 6, 7, 8, 9, 10, 11, 12, 3])):
        assert vector(said) == pytest.approx(reference(encoder, ids).tolist(), abs=1e-4)
        assert math.hypot(*vector(said)) == pytest.approx(1.0, abs=1e-3)
        assert (said.usage.prompt_tokens, said.usage.cached_tokens) == (len(ids), 0)
    assert vector(read(backend, "a b")[0]) == pytest.approx(vector(short), abs=1e-4)


def test_an_empty_text_has_a_direction_too(encoder: Path) -> None:
    (said,) = read(EncoderBackend(encoder), "")
    assert said.usage.prompt_tokens == 2
    assert math.hypot(*vector(said)) == pytest.approx(1.0, abs=1e-3)


def test_nothing_is_read_once_a_halt_has_come(encoder: Path) -> None:
    halt = Halt()
    halt.set("cancelled")
    (said,) = read(EncoderBackend(encoder), "a b", halt=halt)
    assert (said.pieces, said.usage.prompt_tokens) == (None, 0)


def test_it_is_no_verifier_and_no_policy(encoder: Path) -> None:
    backend = EncoderBackend(encoder)
    for wrong in (
        Sheet(before="q", pieces=("a",)),
        Sheet(before="", pieces=("a", "b")),
        Sheet(before="", pieces=("a",), ask=("+",)),
        Sheet(before=(Message(role="user", content="q"),), pieces=("a",)),
    ):
        with pytest.raises(UsageError, match="no verifier"):
            backend.sheet_tokens(wrong)
    with pytest.raises(UsageError, match="cannot be a policy"):
        backend.prompt_tokens(Grown.of(PROBLEM))


def test_a_model_that_pools_otherwise_or_has_no_tokenizer_is_refused(encoder: Path, tmp_path: Path) -> None:
    for file in encoder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    with pytest.raises(UsageError, match="does not take the mean"):
        EncoderBackend(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match="cannot read the tokenizer"):
        EncoderBackend(tmp_path)


def test_ets_has_steps_compared_by_an_encoder_and_pays_for_it(encoder: Path) -> None:
    backend = open_backend(f"local:{encoder}")
    assert isinstance(backend, EncoderBackend)
    result, records = searched(ETS(n=8, model="the encoder"), readers={"embedder": backend})
    read = [each for each in records if isinstance(each, Settled) and each.role == "embedder"]
    assert read
    assert all(each.outcome == "completed" for each in read)
    tokens = [each.verdicts.usage.prompt_tokens for each in read if each.verdicts]
    assert result.usage["embedder"].prompt_tokens == sum(tokens) >= 3 * len(read)
    others = [each for each in records if isinstance(each, Settled) and each.role != "embedder"]
    own = sum(flops(backend.info, each, 0, 0) for each in tokens)
    assert result.bill.flops == pytest.approx(own + sum(each.spend.flops for each in others))
