"""Recipes of a real network, built, scored and timed; what was measured is kept and replayed."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from modeltailor.compress import Format
from modeltailor.compress.formats import Composer
from modeltailor.compress.pack import unpack_model
from modeltailor.estimators.effects import signed_effects
from modeltailor.estimators.sensitivity import metric_drops, sensitivities
from modeltailor.search.sampler import CostTable, Decision, OptionCost, SearchSpace, SiteCosts
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import open_session
from search_table.studies import Values

__all__ = ["Network", "Part", "Scorer"]

Part = Literal["few", "seen", "fresh"]
"""Samples that single sites are judged on, those that a search decides on, the first of which they are, and others that
it never sees."""

Scorer = Callable[[onnxruntime.InferenceSession, Part], float]

_AGREE = 1.01
"""An undisturbed time is known once the quickest inferences agree within this factor."""

_QUICKEST = 5
"""So many must agree; the slowest of them is the time."""

_MOST_TURNS = 3
"""So many times the wanted turns are taken until they do."""

_REFERENCE_TURNS = 256
"""The wanted turns of the uniform model with the original, whose ratio is in every latency of a table."""

_GIVE_WAY_S = 0.02
"""After each step, so that a waiting process wakes up and gets the lock first."""


class Network:
    """Evaluates assignments of formats to the sites of one network.

    Values are the loss against the original on the ``seen`` samples, and latency and bytes as shares of the original's.

    Args:
        name: for people.
        composer: of the network.
        formats: names of the formats that are searched; ``fp32`` first, then those of the family that pays.
        score: accuracy 0..1 or rank correlation of a session on a part of the samples.
        feed: one input, timed.
        table: JSON lines of what was measured, read and extended; processes beside each other may share it, what the
            first of them wrote counts. While one of them takes times, the others wait.
        runs: inferences a timed block.
        turns: blocks of the candidate, and as many of the uniform 8-bit model, at least.
        score_threads: scores are taken with so many, which changes no output; one for each core by default. Times are
            always taken with one.
    """

    def __init__(
        self,
        name: str,
        composer: Composer,
        formats: tuple[str, ...],
        score: Scorer,
        feed: Mapping[str, NDArray[np.generic]],
        *,
        table: Path | None,
        runs: int = 8,
        turns: int = 16,
        score_threads: int | None = None,
    ) -> None:
        self.name = name
        self.composer = composer
        self.formats = formats
        self.score = score
        self.feed = dict(feed)
        self.table = table
        self.runs = runs
        self.turns = turns
        self.score_threads = score_threads or os.cpu_count() or 1
        self.known: dict[str, tuple[float, float]] = {}
        """Loss on the ``seen`` samples and size over the original's, by recipe."""
        self.ratios: dict[str, float] = {}
        """Latency over the original's, by executed kernels."""
        self.fresh_loss: dict[str, float] = {}
        """Loss on the ``fresh`` samples, by recipe."""
        self.drops: dict[tuple[str, str], float] = {}
        """Loss on the ``few`` samples with one site alone changed, by site and format."""
        self.uniform_ratio: float | None = None
        """Latency of the uniform 8-bit model over the original's."""
        self._uniform: onnxruntime.InferenceSession | None = None
        self.told_s: float | None = None
        """Seconds that :meth:`told` took when nothing was known."""
        self._read_until = 0
        self._read()
        self._turn = table.with_suffix(".lock").open("w") if table else None
        with self._beside_others():
            self.origin = composer.compose({}).model_bytes
            self._origin = self._session(self.origin, threads=1)
            scored = self._session(self.origin)
            self.seen_score = score(scored, "seen")
            self.fresh_score = score(scored, "fresh")

    # --- the space ----------------------------------------------------------------------------------------------------

    def space(self) -> SearchSpace:
        """Every site with those of the formats that it can be built in."""
        return SearchSpace(decisions=tuple(Decision(name=s, options=o) for s, o in self._options().items()))

    def _options(self) -> dict[str, tuple[str, ...]]:
        found = {}
        for site in self.composer.sites:
            names = {f.name for f in self.composer.formats(site)}
            taken = tuple(o for o in self.formats if o in names)
            if len(taken) < 2:  # what the family cannot do keeps its weights in fewer bits
                taken = ("fp32", *(o for o in ("w8", "w4", "w2") if o in names))
            found[site.name] = taken
        return found

    # --- evaluating ---------------------------------------------------------------------------------------------------

    def evaluate(self, assignment: dict[str, str]) -> Values:
        """Build, score and time a recipe, or tell what was measured of it before."""
        key = json.dumps(assignment, sort_keys=True)
        # What is stored packed is unfolded while loading: recipes that differ in storage only run the same kernels, and
        # get the same, more carefully measured time. Else more evaluations would win by lucky timings alone.
        kernels = _kernels(assignment)
        if key not in self.known or kernels not in self.ratios:
            self._read()
        if key not in self.known or kernels not in self.ratios:
            with self._beside_others():
                made = self.composer.compose({s: Format.parse(f) for s, f in assignment.items()})
                known = key in self.known
                loss = 0.0 if known else self.seen_score - self.score(self._session(made.model_bytes), "seen")
            if kernels not in self.ratios:
                timed = self._session(made.model_bytes, threads=1)
                self._keep({"kernels": kernels, "ratio": self._latency_ratio(timed)})
            if not known:
                self._keep({"key": key, "loss": loss, "size": len(made.model_bytes) / len(self.origin)})
        loss, size = self.known[key]
        return loss, self.ratios[kernels], size

    def measured(self) -> list[Values]:
        """Values of all recipes of the table."""
        return [
            (loss, self.ratios[kernels], size)
            for key, (loss, size) in self.known.items()
            if (kernels := _kernels(json.loads(key))) in self.ratios
        ]

    def fresh(self, assignment: dict[str, str]) -> float:
        """Loss on the samples that the search does not see."""
        key = json.dumps(assignment, sort_keys=True)
        if key not in self.fresh_loss:
            self._read()
        if key not in self.fresh_loss:
            with self._beside_others():
                made = self.composer.compose({s: Format.parse(f) for s, f in assignment.items()})
                loss = self.fresh_score - self.score(self._session(made.model_bytes), "fresh")
            self._keep({"key": key, "fresh": loss})
        return self.fresh_loss[key]

    def _session(self, model: bytes, *, threads: int | None = None) -> onnxruntime.InferenceSession:
        """Open a file in its unpacked form: the same kernels and outputs bit for bit, in a tenth of the loading time."""
        options = RuntimeOptions(intra_op_threads=threads or self.score_threads)
        return open_session(unpack_model(onnx.load_from_string(model)).SerializeToString(), options)

    def _latency_ratio(self, ours: onnxruntime.InferenceSession) -> float:
        """Candidate over original: timed in turns with the uniform 8-bit model, whose share of the original is taken once.

        What else a machine does only adds time, so the fifth quickest inference counts: medians of blocks move by 5 % on a
        machine whose cores are shared with others, and a sampler with twenty times the evaluations then wins by the luckiest
        of its timings. What shared caches and clocks do to all for seconds goes out of the ratio of two models that are
        alike, not out of that to the original, which is held back by memory.
        """
        with self._alone():
            if self._uniform is None:
                made = self.composer.compose({s: Format.parse(o[1]) for s, o in self._options().items()})
                self._uniform = self._session(made.model_bytes, threads=1)
            if self.uniform_ratio is None:
                uniform, original = self._in_turns(self._uniform, self._origin, least=_REFERENCE_TURNS)
                self._keep({"uniform": uniform / original})
            assert self.uniform_ratio is not None
            candidate, uniform = self._in_turns(ours, self._uniform, least=self.turns)
        return self.uniform_ratio * candidate / uniform

    def _in_turns(
        self, one: onnxruntime.InferenceSession, other: onnxruntime.InferenceSession, *, least: int
    ) -> tuple[float, float]:
        """Undisturbed nanoseconds of both: the fifth quickest inference, in turns until five agree on both."""

        def block(session: onnxruntime.InferenceSession) -> list[int]:
            session.run(None, self.feed)
            times = []
            for _ in range(self.runs):
                started = time.perf_counter_ns()
                session.run(None, self.feed)
                times.append(time.perf_counter_ns() - started)
            return times

        ours: list[int] = []
        theirs: list[int] = []
        for turn in range(1, _MOST_TURNS * least + 1):
            ours = sorted(ours + block(one))[:_QUICKEST]
            theirs = sorted(theirs + block(other))[:_QUICKEST]
            if turn >= least and all(times[-1] <= _AGREE * times[0] for times in (ours, theirs)):
                break
        return ours[-1], theirs[-1]

    def _alone(self) -> AbstractContextManager[None]:
        """Take times while no other process of the table computes."""
        return self._locked(fcntl.LOCK_EX)

    def _beside_others(self) -> AbstractContextManager[None]:
        """Compute, but not while another process of the table takes times."""
        return self._locked(fcntl.LOCK_SH)

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        """Hold the table's lock; who waits for it to take times gets it between two steps of the others."""
        if self._turn:
            fcntl.flock(self._turn, kind)
        try:
            yield
        finally:
            if self._turn:
                fcntl.flock(self._turn, fcntl.LOCK_UN)
                time.sleep(_GIVE_WAY_S)

    # --- the prior ----------------------------------------------------------------------------------------------------

    def told(self) -> CostTable:
        """What a run knows before searching: sensitivities, stored bytes, and time shared out by work."""
        started = time.perf_counter()
        options = self._options()
        names = tuple(sorted({f for o in options.values() for f in o}))
        with self._beside_others():
            loss = sensitivities(self.composer, formats=names)
            effects = signed_effects(self._drops(names), loss)
        whole = len(self.origin)
        fast = self.evaluate({s: o[1] for s, o in options.items()})[1]
        macs = sum(s.macs for s in self.composer.sites) or 1
        stored: dict[tuple[str, str], float] = {}
        for rank in range(max(len(o) for o in options.values())):
            made = self.composer.compose({s: Format.parse(o[min(rank, len(o) - 1)]) for s, o in options.items()})
            for report in made.sites:
                stored[report.site, report.format] = report.stored_bytes / whole
        sites = []
        for site in self.composer.sites:
            costs = [
                OptionCost(
                    loss=loss.get((site.name, name), 0.0),
                    drop=effects.get((site.name, name), 0.0),
                    latency_ms=site.macs / macs * (fast if _domain(name) == "int8" else 1.0),
                    size_bytes=stored[site.name, name],
                    domain=_domain(name),
                )
                for name in options[site.name]
            ]
            sites.append(SiteCosts(site=site.name, options=tuple(costs)))
        weights = sum(stored[s.name, "fp32"] for s in self.composer.sites)
        self._keep({"told_s": time.perf_counter() - started})
        return CostTable(sites=tuple(sites), fixed_size_bytes=max(0.0, 1.0 - weights))

    def _drops(self, formats: tuple[str, ...]) -> dict[tuple[str, str], float]:
        if not self.drops:
            found = metric_drops(self.composer, lambda m: -self.score(self._session(m), "few"), formats=formats)
            self._keep({"drops": [[*key, drop] for key, drop in found.items()]})
        return self.drops

    # --- the table ----------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Take in what others have written since."""
        if self.table is None or not self.table.exists():
            return
        with self.table.open("rb") as lines:
            lines.seek(self._read_until)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                self._read_until += len(line)
                self._take(json.loads(line))

    def _keep(self, row: Mapping[str, object]) -> None:
        """Write what was measured, and take in what counts: an earlier line about the same, if there is one."""
        if self.table is None:
            self._take(row)
            return
        with self.table.open("ab", buffering=0) as out:
            out.write((json.dumps(row) + "\n").encode())  # one write at the end of a file: lines do not mix
        self._read()

    def _take(self, row: Mapping[str, Any]) -> None:
        if "fresh" in row:
            self.fresh_loss.setdefault(row["key"], row["fresh"])
        elif "drops" in row:
            self.drops = self.drops or {(site, name): drop for site, name, drop in row["drops"]}
        elif "told_s" in row:
            self.told_s = self.told_s or row["told_s"]
        elif "uniform" in row:
            self.uniform_ratio = self.uniform_ratio or row["uniform"]
        elif "ratio" in row:
            self.ratios.setdefault(row["kernels"], row["ratio"])
        else:
            self.known.setdefault(row["key"], (row["loss"], row["size"]))


def _kernels(assignment: Mapping[str, str]) -> str:
    return "".join(_domain(f)[0] for _, f in sorted(assignment.items()))


def _domain(name: str) -> str:
    return "int8" if Format.parse(name).scheme in ("static", "dynamic") else "float"
