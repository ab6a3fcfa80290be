"""The published JSON schema of ``summary.json``.

``python -m modeltailor.reports.schema`` prints it; ``summary.schema.json`` beside this file is that text; a test
compares both.
"""

from __future__ import annotations

import json
import sys

from modeltailor.reports.summary import RunSummary

__all__ = ["schema_text"]


def schema_text() -> str:
    """The JSON schema (draft 2020-12) as text."""
    schema = RunSummary.model_json_schema(mode="serialization")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "modeltailor run summary"
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
