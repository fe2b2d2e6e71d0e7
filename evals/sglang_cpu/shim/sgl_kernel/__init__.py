"""Stands in for SGLang's compiled kernels on a processor they were not built for.

On a CPU, SGLang imports a handful of functions whose names end in `_cpu` and, but for one of them, calls them only for
speculative decoding and copies of keys and values. Every other name is absent, so that SGLang's own guarded imports
fall back to torch.
"""

from collections.abc import Callable
from typing import Any

__version__ = "0.4.10"


def __getattr__(name: str) -> Callable[..., Any]:
    if not name.endswith("_cpu"):
        raise AttributeError(name)

    def absent(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"{name} needs SGLang's compiled kernels")

    return absent


def assign_req_to_token_pool_cpu(requests: Any, table: Any, starts: Any, ends: Any, slots: Any, *_: Any) -> None:
    """Enter the new slots of each request into its row of the table."""
    taken = 0
    for row, start, end in zip(requests.tolist(), starts.tolist(), ends.tolist(), strict=True):
        table[row, start:end] = slots[taken : taken + end - start].to(table.dtype)
        taken += end - start
