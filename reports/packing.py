"""The data of the page: layers written once where models share them, and all of it deflated.

``templates/inflate.js`` and ``templates/layers.js`` read it back. Deflated and in base 64, the data of a long run takes
a quarter of its JSON, and holds no character that HTML could stumble over.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import TypeAlias

from modeltailor.errors import shown
from modeltailor.reports.naming import kernel_family
from modeltailor.reports.summary import SiteSummary

__all__ = ["Json", "LayerTables", "packed", "short", "unpacked"]

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_LONGEST_NAME = 120
_DIGITS = 7
"""Far more than are shown: a figure that was rounded to four digits and then to three would not be that of the summary."""


def packed(data: Json) -> str:
    """Deflate JSON data (RFC 1951, no header) and write it in base 64."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    return base64.b64encode(deflater.compress(text.encode("ascii")) + deflater.flush()).decode("ascii")


def unpacked(text: str) -> Json:
    """Read back what :func:`packed` wrote."""
    data: Json = json.loads(zlib.decompress(base64.b64decode(text), -15))
    return data


def short(value: float, digits: int = 6) -> float:
    """Significant digits that are enough for every figure that is shown."""
    return float(f"{value:.{digits}g}")


class LayerTables:
    """Collects the layers of models one after another; :meth:`tables` gives what they share."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._layouts: dict[tuple[tuple[str | int | float | None, ...], ...], int] = {}
        self._rows: list[Json] = []
        self._palette: dict[tuple[str, int, str, str], int] = {}
        self._sensitivities: dict[tuple[int, str], float] = {}

    def pack(self, sites: Sequence[SiteSummary]) -> dict[str, Json]:
        """Return what is a model's own: its formats and figures, layer by layer."""
        cells: list[Json] = []
        for s in sites:
            entry = (
                shown(s.format, 40),
                s.storage_bits,
                shown(s.executed_kernel, 60),
                kernel_family(s.executed_kernel),
            )
            cells.append(self._palette.setdefault(entry, len(self._palette)))
            if s.sensitivity is not None:
                self._sensitivities[self._name(s), entry[0]] = short(s.sensitivity, _DIGITS)
        out: dict[str, Json] = {
            "layout": self._layout(sites),
            "cells": cells,
            "bytes": [s.stored_bytes for s in sites],
            "notes": {str(i): shown(s.note, 200) for i, s in enumerate(sites) if s.note},
        }
        figures = {
            "bytesOf": [s.bytes_of_fp32 for s in sites],
            "time": [s.time_share for s in sites],
            "ms": [s.time_ms for s in sites],
            "timeOf": [s.time_of_fp32 for s in sites],
            "zeros": [s.sparsity for s in sites],
        }
        for key, values in figures.items():
            if any(v is not None for v in values):
                out[key] = [None if v is None else short(v, _DIGITS) for v in values]
        return out

    def tables(self) -> dict[str, Json]:
        """Return what the models share: names, layouts, formats with their kernels, and sensitivities."""
        return {
            "names": list(self._names),
            "layouts": self._rows,
            "palette": [list(entry) for entry in self._palette],
            "sensitivities": [[name, fmt, value] for (name, fmt), value in self._sensitivities.items()],
        }

    def _name(self, site: SiteSummary) -> int:
        return self._names.setdefault(shown(site.site, _LONGEST_NAME), len(self._names))

    def _layout(self, sites: Sequence[SiteSummary]) -> int:
        rows = tuple(
            (self._name(s), s.kind, s.weight_elements, s.macs, s.channels,
             None if s.channels_kept is None else short(s.channels_kept, _DIGITS), s.rank)
            for s in sites
        )  # fmt: skip
        if rows not in self._layouts:
            self._layouts[rows] = len(self._layouts)
            layout: list[Json] = []
            for row in rows:
                cells: list[Json] = list(row)
                layout.append(cells)
            self._rows.append(layout)
        return self._layouts[rows]
