"""What there is to know of a model that somebody else has loaded: from its server, and from its files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

from tts.backends.sglang.likeness import spelt
from tts.backends.sglang.wire import Failure, Wire
from tts.errors import BackendError, UsageError
from tts.types import Capability, ModelInfo, digest

FILES = ("config.json", "tokenizer*.json", "chat_template.jinja", "generation_config.json")
ASKING = 10.0
"""Seconds for a server to say what it is."""
SAME = 0.01
"""Log-probabilities that differ by less are the same, computed twice."""


@dataclass(frozen=True)
class Facts:
    """A server's own words, and the folder with the model's tokenizer and configuration."""

    server: Mapping[str, Any]
    folder: File


async def ask(wire: Wire) -> Mapping[str, Any]:
    """What a server says of itself, and of a router, which may pass the question on or not, what a worker says."""
    workers = await _workers(wire)
    if not workers:
        try:
            return await _told(wire)
        except Failure as failure:
            raise BackendError(f"{failure}; is an SGLang server there, and is it ready?") from failure
    worker = wire.to(workers[0])
    try:
        return {**await _told(worker), "workers": workers}
    except Failure as failure:
        raise BackendError(f"{wire.url} routes to {workers[0]}, which does not answer: {failure}") from failure
    finally:
        await worker.close()


async def _told(wire: Wire) -> Mapping[str, Any]:
    info = await wire.get("/server_info", ASKING)
    if not isinstance(info, dict) or "max_total_num_tokens" not in info:
        raise Failure(f"{wire.url} does not say what it serves", started=False)
    told = {**info, **await wire.get("/model_info", ASKING), "spelt": await spelt(wire, ASKING)}
    return {**told, "original_logprobs": await _undivided(wire)} if told.get("is_generation", True) else told


async def _undivided(wire: Wire) -> bool:
    """Whether log-probabilities are those before the temperature: a hot token's own, and not a flatter one's."""
    hot, plain = [await _top_logprob(wire, tokens, heat) for tokens, heat in ((1, 8.0), (0, 0.0))]
    return abs(hot - plain) < SAME


async def _top_logprob(wire: Wire, tokens: int, temperature: float) -> float:
    body = {
        "input_ids": [1],
        "sampling_params": {"max_new_tokens": tokens, "temperature": temperature},
        "return_logprob": True,
        "top_logprobs_num": 1,
    }
    reply = await wire.post("/generate", body, ASKING)
    return float(reply["meta_info"]["output_top_logprobs"][0][0][0])


async def _workers(wire: Wire) -> Sequence[str]:
    try:
        listed = await wire.get("/workers", ASKING)
        return [worker["url"] for worker in listed["workers"]]
    except (Failure, UsageError, KeyError, TypeError):
        return []


def folder_of(server: Mapping[str, Any], tokenizer: File | None) -> File:
    """Where the tokenizer is: the folder named, or that of the server if it is on this machine, else from the hub."""
    named = str(tokenizer or server["tokenizer_path"])
    if (File(named) / "tokenizer.json").is_file():
        return File(named)
    if named.startswith(("/", ".")) or tokenizer is not None:
        raise UsageError(
            f"there is no {named}/tokenizer.json here; name a folder with the model's tokenizer.json and config.json: "
            "tokenizer = … of its profile in tts.toml"
        )
    try:
        from huggingface_hub import snapshot_download

        return File(snapshot_download(named, allow_patterns=list(FILES)))
    except Exception as error:  # a hub fails in many ways, and what helps is the same
        raise UsageError(
            f"cannot fetch the tokenizer of {named} ({str(error).splitlines()[0]}); "
            "name a folder that has it: tokenizer = … of its profile in tts.toml"
        ) from error


def read_config(folder: File) -> dict[str, Any]:
    """The model's configuration."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {folder / 'config.json'}: {error}") from error
    return {**config, **config.get("text_config", {})}


def info_of(facts: Facts, name: str, grace: float, manner: str) -> ModelInfo:
    """What there is to say of the model, for bills and journals. `manner` is how its prompts are spelled, where that is
    not its own way."""
    server, config = facts.server, read_config(facts.folder)
    spelled = [(facts.folder / file).read_text(encoding="utf-8") for file in ("config.json", "tokenizer.json")]
    return ModelInfo(
        name=name,
        fingerprint=digest("\x00".join([basename(server), str(server.get("weight_version")), *spelled, manner])),
        context=server["max_req_input_len"],
        parameters=parameters_of(config),
        layers=config["num_hidden_layers"],
        attention_width=config["num_attention_heads"] * head_size(config),
        capabilities=capabilities_of(server),
        grace=grace,
    )


def basename(server: Mapping[str, Any]) -> str:
    """What a model is called: its served name, without the folders before it."""
    return str(server.get("served_model_name") or server["model_path"]).rstrip("/").rpartition("/")[2]


def capabilities_of(server: Mapping[str, Any]) -> frozenset[Capability]:
    """Log-probabilities are the model's own only where the server was told not to divide them by the temperature."""
    if not server.get("is_generation", True):
        return frozenset({"prefill_score", "abort"})
    found: set[Capability] = {"continue", "prefill_score", "abort"}
    grammar = server.get("grammar_backend")
    if grammar != "none":
        found.add("grammar")
    if grammar in (None, "xgrammar"):  # others know structural tags of another form
        found.add("structural_tag")
    return frozenset(found | ({"logprobs"} if server.get("original_logprobs") else set()))


def head_size(config: Mapping[str, Any]) -> int:
    """The width of one attention head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def parameters_of(config: Mapping[str, Any]) -> int:
    """The parameters active for a token, of a decoder like Llama, Qwen or Mixtral: embeddings, and in each layer
    attention, norms and the (chosen) feed-forward networks of three matrices."""
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    head, heads = head_size(config), config["num_attention_heads"]
    groups = config.get("num_key_value_heads") or heads
    attention = hidden * head * (2 * heads + 2 * groups)
    if config.get("model_type") == "qwen2" or config.get("attention_bias"):
        attention += head * (heads + 2 * groups)
    norms = 2 * hidden + (2 * head if str(config.get("model_type")).startswith("qwen3") else 0)
    embedded = config["vocab_size"] * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return int(embedded + hidden + layers * (attention + norms + _feed_forward(config)))


def _feed_forward(config: Mapping[str, Any]) -> int:
    hidden: int = config["hidden_size"]
    experts = config.get("num_experts") or config.get("num_local_experts") or 0
    if not experts:
        return int(3 * hidden * config["intermediate_size"])
    width = config.get("moe_intermediate_size") or config["intermediate_size"]
    return int(config["num_experts_per_tok"] * 3 * hidden * width + experts * hidden)
