"""The README's speeds are those that the benchmark wrote down."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_table_of_speeds_is_the_benchmarks() -> None:
    command = [sys.executable, "benchmarks/speed_table.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_samplers_are_compared_with_the_benchmarks_figures() -> None:
    parts = json.loads((ROOT / "benchmarks" / "results" / "search.json").read_text())
    page = (ROOT / "docs" / "search.md").read_text()
    median = {(r["sampler"], r["losses"]): r["median"] for r in parts["resnet20"]["results"] if "sampler" in r}
    columns = (("tailor", "20"), ("tailor", "60"), ("tpe", "20"), ("tpe", "400"), ("nsga2", "400"))
    for losses in ("fresh", "capped", "seen"):
        row = " | ".join(f"{median[sampler, losses][at]:.4f}" for sampler, at in columns)
        assert f"| {row} |" in page, losses
    whole = {r["name"]: r["hypervolume"] for r in parts["joint"]["results"]}
    told = re.findall(r"0\.\d{4}", page.split("split: ")[1].split("\n\n")[0])
    names = ["tailor", "nsga2", *(n for n in whole if "hand-made" in n or "NNCF" in n or "static" in n)]
    assert sorted(told) == sorted(f"{whole[n]:.4f}" for n in names)
    seconds = [g["value"] for g in parts["first"]["goals"]]
    assert f"after {seconds[0]:.0f} s, the first model" in page.replace("\n", " ")
    assert f"after {seconds[1]:.0f} s." in page
