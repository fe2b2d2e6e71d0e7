"""Writes the dashboards to where they are provisioned from."""

from __future__ import annotations

from service.metrics.dashboards import FOLDER, files

FOLDER.mkdir(parents=True, exist_ok=True)
for name, text in files().items():
    (FOLDER / name).write_text(text, encoding="utf-8")
    print(FOLDER / name)
