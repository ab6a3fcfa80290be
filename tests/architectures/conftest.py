"""The suite's modules are shared with ``benchmarks/architectures.py``; both find them as the package ``architectures``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
