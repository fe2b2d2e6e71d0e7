"""The service, and the command `tts`."""
