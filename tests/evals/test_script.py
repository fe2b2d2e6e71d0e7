from __future__ import annotations

import sys
from pathlib import Path

import pytest

from evals import claims
from evals.script import Script


def script() -> Script:
    made = Script(claims.__doc__)
    made.add_argument("folders", type=Path, nargs="+")
    made.add_argument("--family", default="choosing")
    return made


def test_help_is_the_modules_docstring(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["claims", "--help"])
    with pytest.raises(SystemExit, match="0"):
        script().run(claims.main)
    assert "    python -m evals.claims RUN_DIR…" in capsys.readouterr().out


def test_what_a_user_did_wrong_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["claims", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        script().run(claims.main)
    told = capsys.readouterr().err
    assert told.startswith(f"claims: {tmp_path} holds no run")
    assert told.count("\n") == 1
