"""How candidates are made and scored; each is kept as a file for timing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import optimize

from format_table.rows import Row, Table
from modeltailor.compress import Format, Settings
from modeltailor.compress.formats import Composed, Composer, executed_kernels, kernels_agree
from modeltailor.estimators.sensitivity import output_loss
from modeltailor.targets.saturation import saturates_here
from modeltailor.targets.session import optimized_model, run_batches

__all__ = ["Candidates", "compose_ms", "mixed", "uniform"]

F = Format.parse


class Candidates:
    """Makes the candidates of one network.

    Args:
        table: where rows go.
        composer: of the network.
        score: accuracy or correlation of a model's bytes.
        folder: where files go.
        labels: the only candidates that are made; all if empty.
    """

    def __init__(
        self,
        table: Table,
        composer: Composer,
        score: Callable[[bytes], float],
        folder: Path,
        labels: frozenset[str] = frozenset(),
    ) -> None:
        self.table, self.composer, self.score, self.folder, self.labels = table, composer, score, folder, labels
        self._saturates = saturates_here()
        kept = table.row("fp32")
        if kept is None:
            model = composer.float_model()
            self._base = score(model)
            self._keep("fp32", model, self._base, 0.0, composer.compose({}), 0.0, timed=True)
        else:
            self._base = kept.score

    def make(
        self, label: str, formats: Mapping[str, Format], settings: Settings | None = None, *, timed: bool = True
    ) -> None:
        """Build, score and keep one candidate, if it is among those that are asked for.

        As in a search, 8-bit weights use all their bits only where this machine adds products exactly.
        """
        if self.labels and label not in self.labels:
            return
        settings = replace(settings or Settings(), reduce_range=self._saturates)
        started = time.perf_counter()
        made = self.composer.compose(formats, settings)
        seconds = time.perf_counter() - started
        loss = self._loss(made.model_bytes)
        self._keep(label, made.model_bytes, self.score(made.model_bytes), loss, made, seconds, timed=timed)

    def _loss(self, model: bytes) -> float:
        inputs = {k: v[:256] for k, v in self.composer.calibration.inputs.items()}
        found = run_batches(model, inputs, batch_size=32)
        reference = self.composer.calibration.outputs()
        return float(np.mean([output_loss(reference[k][: len(v)], v) for k, v in found.items()]))

    def _keep(
        self, label: str, model: bytes, score: float, loss: float, made: Composed, seconds: float, *, timed: bool
    ) -> None:
        name = f"{self.table.network}-{''.join(c if c.isalnum() else '-' for c in label)}.onnx"
        (self.folder / name).write_bytes(model)
        row = Row(
            network=self.table.network, label=label, score=score, lost_points=100 * (self._base - score),
            output_loss=loss, bytes=len(model), beyond=beyond_payload(self.composer, made),
            kernels_match=_kernels_match(self.composer, made), first_s=seconds, file=name, timed=timed,
        )  # fmt: skip
        self.table.rows = [r for r in self.table.rows if r.label != label] + [row]
        self.table.write(self.folder)
        print(
            f"{row.network:10s} {label:34s} {score:.4f}  {row.lost_points:+6.2f} points  loss {loss:8.4f}"
            f"  {row.bytes:10,d} bytes  kernels {'as promised' if row.kernels_match else 'NOT AS PROMISED'}"
            f"{'  RUINED' if row.is_ruined else ''}",
            flush=True,
        )


def uniform(composer: Composer, *names: str) -> dict[str, Format]:
    """Return the first of ``names`` that can be built, at every site where one can."""
    formats = {}
    for site in composer.sites:
        known = composer.formats(site)
        chosen = next((F(n) for n in names if F(n) in known), None)
        if chosen is not None:
            formats[site.name] = chosen
    return formats


def mixed(
    composer: Composer, losses: Mapping[tuple[str, str], float], names: tuple[str, ...], limit: int
) -> dict[str, Format]:
    """Return the recipe of at most ``limit`` stored bytes with the smallest sum of losses, by integer programming."""
    options = [(s, n) for s in composer.sites for n in names if (s.name, n) in losses]
    cost = np.array([losses[s.name, n] for s, n in options])
    size = np.array([composer.stored_bytes(s, F(n)) for s, n in options], float)
    choose = np.array([[float(s.name == t.name) for s, _ in options] for t in composer.sites])
    solved = optimize.milp(
        cost,
        integrality=np.ones(len(options)),
        bounds=optimize.Bounds(0, 1),
        constraints=[optimize.LinearConstraint(choose, 1, 1), optimize.LinearConstraint(size[None], 0, limit)],
    )
    return {s.name: F(n) for (s, n), taken in zip(options, solved.x, strict=True) if taken > 0.5}


def beyond_payload(composer: Composer, made: Composed) -> int:
    """Return the bytes of the file beyond packed weights, scales, tables and 4-byte biases."""
    model = len(made.model_bytes) - sum(r.stored_bytes for r in made.sites)
    outputs = sum(
        s.site.weight_shape[s.out_axis]
        for s in composer.graph.sites
        if s.bias is not None and s.site.kind != "embedding"
    )
    return model - 4 * outputs


def _kernels_match(composer: Composer, made: Composed) -> bool:
    executed = executed_kernels(optimized_model(made.model_bytes), composer.sites)
    return all(kernels_agree(r.kernel, executed.get(r.site, "")) for r in made.sites)


def compose_ms(composer: Composer, formats: Mapping[str, Format], repeats: int) -> float:
    """Return the median milliseconds of putting a candidate together from parts that are there."""
    composer.compose(formats)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        composer.compose(formats)
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))
