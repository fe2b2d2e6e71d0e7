"""Rivals beside us, against one SGLang server behind one counting proxy.

    python -m evals.runs.rivals --setup                               # once: the rivals' own environment, in .rivals/
    python -m evals.runs.rivals --server http://127.0.0.1:30000       # about twenty minutes; killed, it goes on

The server serves the lab's policy, with --enable-metrics, and serves nobody else meanwhile: what is generated after a
cancellation is read from its counters. `tools` says what is compared, each out of the box and configured as well as an
expert could; `drivers/` holds a program for each, run in its own environment; `proxy` counts, and fails calls.
"""
