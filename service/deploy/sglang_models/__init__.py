"""Models that SGLang does not know, for its `SGLANG_EXTERNAL_MODEL_PACKAGE=sglang_models`.

Only a server imports this, in SGLang's environment and with `service/deploy` on its path. Nothing here imports ours.
"""
