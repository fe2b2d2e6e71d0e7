"""Models of any provider that LiteLLM speaks to."""

from tts.backends.litellm.backend import LiteLLMBackend

__all__ = ["LiteLLMBackend"]
