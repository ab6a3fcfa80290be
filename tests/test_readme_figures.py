"""The README's speeds are those that the benchmark wrote down."""

from __future__ import annotations

import json
import re
import statistics
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
    columns = (("tailor", "20"), ("tailor", "60"), ("tpe", "20"), ("tpe", "400"), ("nsga2", "400"))
    for part in ("resnet20", "minilm"):
        rows = [r for r in parts[part]["results"] if "sampler" in r]
        median = {(r["sampler"], r["losses"]): r["median"] for r in rows}
        for losses in ("fresh", "capped", "seen"):
            row = " | ".join(f"{median[sampler, losses][at]:.4f}" for sampler, at in columns)
            assert f"| {row} |" in page, (part, losses)
        assert f"{rows[0]['told_s']:.0f} s on {'ResNet20' if part == 'resnet20' else 'MiniLM'}" in page
    since = json.loads((ROOT / "benchmarks" / "results" / "search_minilm_16_cores.json").read_text())["hypervolume"]
    for losses in ("capped", "seen"):
        found = [(since["tailor"], "20"), (since["tailor"], "60"), (since["tpe"], "20"), (since["tpe"], "last")]
        row = " | ".join(f"{statistics.median(of[losses][at]):.4f}" for of, at in found if at in of[losses])
        assert f"| {row} |" in page, losses
    toys = {
        (r["sites"], r["sampler"], r["interactions"]): list(r["median"].values())[-1]
        for r in parts["toys"]["results"]
        if r["told"] == "scan"
    }
    table = page.split("| sites |")[1].split("\n\n")[0]
    for (sites, sampler, _), share in toys.items():
        row = next(line for line in table.splitlines() if line.startswith(f"| {sites:,} |"))
        assert sampler == "random" or f"{share:.4f}" in row, (sites, sampler)
    whole = {r["name"]: r["hypervolume"] for r in parts["joint"]["results"]}
    told = re.findall(r"0\.\d{4}", page.split("split: ")[1].split("\n\n")[0])
    names = ["tailor", "nsga2", *(n for n in whole if "hand-made" in n or "NNCF" in n or "static" in n)]
    assert sorted(told) == sorted(f"{whole[n]:.4f}" for n in names)
    seconds = [g["value"] for g in parts["first"]["goals"]]
    assert f"after {seconds[0]:.0f} s, the first model" in page.replace("\n", " ")
    assert f"after {seconds[1]:.0f} s." in page
