"""The README's speeds are those that the benchmark wrote down."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_table_of_speeds_is_the_benchmarks() -> None:
    command = [sys.executable, "benchmarks/speed_table.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
