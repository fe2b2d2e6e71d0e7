"""Models served by SGLang: one replica or many, spoken to in token ids."""

from tts.backends.sglang.backend import SGLangBackend

__all__ = ["SGLangBackend"]
