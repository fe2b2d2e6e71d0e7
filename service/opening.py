"""The kinds of backends, each opened with the libraries of its own extra."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

import click

from tts.backends.base import Backend
from tts.errors import UsageError, unknown

if TYPE_CHECKING:
    from tts.bank import Bank

KINDS = ("local", "sglang", "litellm", "bank", "fake")


def opened(scheme: str, rest: str, settings: Mapping[str, Any], profiles: Iterable[str]) -> Backend:
    """A backend of that kind; one that is none is compared with the names of `profiles` too."""
    if scheme == "local":
        return _local(rest, settings)
    if scheme == "bank":
        return _remembered(bank(rest))
    if scheme == "fake":
        return _fake(rest)
    if scheme == "sglang":
        return _sglang(rest, settings)
    if scheme == "litellm":
        return _litellm(rest, settings)
    if scheme in ("http", "https"):
        raise UsageError(f"{scheme}:{rest} is an address; a model that SGLang serves there is sglang:{scheme}:{rest}")
    raise unknown("backend", scheme, (*KINDS, *profiles))


def _local(folder: str, settings: Mapping[str, Any]) -> Backend:
    try:
        from tts.backends.encoding import EncoderBackend
        from tts.backends.local import LocalBackend
        from tts.backends.weights import is_encoder
    except ModuleNotFoundError as error:
        raise UsageError(f"the local backend needs {error.name}; pip install 'test-time-scaling[local]'") from error
    if folder and is_encoder(File(folder)):
        return EncoderBackend(File(folder))
    notice = partial(click.echo, err=True)
    return LocalBackend(File(folder) if folder else None, notice=notice, **settings)


def _sglang(urls: str, settings: Mapping[str, Any]) -> Backend:
    try:
        from tts.backends.sglang import SGLangBackend
    except ModuleNotFoundError as error:
        raise UsageError(f"the SGLang backend needs {error.name}; pip install 'test-time-scaling[sglang]'") from error
    notice = partial(click.echo, err=True)
    return asyncio.run(SGLangBackend.open([url for url in urls.split(",") if url], notice=notice, **settings))


def _litellm(model: str, settings: Mapping[str, Any]) -> Backend:
    if not model:
        raise UsageError("the LiteLLM backend needs a model: --backend litellm:PROVIDER/MODEL")
    from tts.backends.litellm import LiteLLMBackend

    return LiteLLMBackend(model, **settings)


def bank(folder: str) -> Bank:
    """The bank in a folder, which has to be named."""
    if not folder:
        raise UsageError("the bank backend needs a bank: --backend bank:DIR")
    try:
        from tts.bank import Bank
    except ModuleNotFoundError as error:
        raise UsageError(f"banks need {error.name}; pip install 'test-time-scaling[evals]'") from error
    return Bank(File(folder))


def _remembered(bank: Bank) -> Backend:
    from tts.backends.bank import BankBackend

    return BankBackend(bank)


def _fake(target: str) -> Backend:
    from tts.backends.fake import FakeBackend

    module, _, function = target.partition(":")
    if not module or not function:
        raise UsageError("the fake backend needs a handler: --backend fake:MODULE:FUNCTION")
    try:
        return FakeBackend(getattr(importlib.import_module(module), function))
    except (ImportError, AttributeError) as error:
        raise UsageError(f"no handler {target!r}: {error}") from error
