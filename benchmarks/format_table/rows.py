"""Rows of the table of formats, and the goals that are judged on them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

__all__ = ["Goal", "Row", "Speed", "Table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Latency over that of the fp32 file in the same processes, one thread, with its 95 % interval.

    Attributes:
        value: how many times faster.
        low: lower end.
        high: upper end.
        pairs: process pairs.
        verdict: as in ``modeltailor bench``.
        latency_ms: of one inference in that session of the machine.
        load_ms: opening the file.
        load_unpacked_ms: opening the same model with plain int8 weights; ``None`` where nothing is packed.
    """

    value: float
    low: float
    high: float
    pairs: int
    verdict: str
    latency_ms: float
    load_ms: float
    load_unpacked_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One candidate.

    Attributes:
        network: which network.
        label: what was done to it.
        score: accuracy 0..1, or rank correlation.
        lost_points: 100 times the score of the float model less this one.
        output_loss: distance of the outputs from the float model's on calibration data, without labels.
        bytes: of the file.
        beyond: bytes of the file beyond packed weights, scales, tables and biases.
        kernels_match: whether every site executes what was promised, read off the optimized graph.
        first_s: seconds to build it with nothing cached.
        file: name of the model's file.
        timed: whether it is timed.
        speed: what timing found.
    """

    network: str
    label: str
    score: float
    lost_points: float
    output_loss: float
    bytes: int
    beyond: int
    kernels_match: bool
    first_s: float
    file: str
    timed: bool = True
    speed: Speed | None = None

    @property
    def is_ruined(self) -> bool:
        """Whether the network is of no more use: above 10 points lost."""
        return self.lost_points > 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A figure that was promised; ``row`` and ``limit`` tell how it is judged once it is timed."""

    name: str
    wanted: str
    value: str
    met: bool


@dataclass
class Table:
    """All rows of one network, kept in a file between scoring and timing.

    Attributes:
        network: its name.
        rows: the float model first.
        figures: other measured figures by name.
    """

    network: str
    rows: list[Row] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def row(self, label: str) -> Row | None:
        """Return the row of that label."""
        return next((r for r in self.rows if r.label == label), None)

    def timed(self, label: str, speed: Speed) -> None:
        """Write down what timing found."""
        self.rows = [replace(r, speed=speed) if r.label == label else r for r in self.rows]

    def write(self, folder: Path) -> None:
        """Keep the table as JSON."""
        text = json.dumps({"rows": [asdict(r) for r in self.rows], "figures": self.figures}, indent=1)
        (folder / f"{self.network}.json").write_text(text)

    @staticmethod
    def read(folder: Path, network: str) -> Table | None:
        """Read back what :meth:`write` kept."""
        path = folder / f"{network}.json"
        if not path.is_file():
            return None
        data = json.loads(path.read_text())
        rows = [Row(**{**r, "speed": Speed(**r["speed"]) if r["speed"] else None}) for r in data["rows"]]
        return Table(network, rows, data["figures"])
