"""How many evaluations the search needs: toy landscapes with a known front, and real evaluations of ResNet20.

Usage::

    python benchmarks/search.py [--quick] [--only toys,resnet20] [--json FILE] [--plot FILE] [--table FILE]

Every sampler sees the same space and the same evaluator, and every study starts with the uniform formats. Samplers that
use order get ordinal parameters. On the toys the share of the true hypervolume is printed (of its upper bound, where it
is only enclosed). The ResNet20 part builds, scores and times every recipe; what was measured is kept in ``--table`` and
replayed. Its data comes from the folder in ``MODELTAILOR_DATA`` (default ``../shared/data``). ``--plot`` writes SVG.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from importlib.metadata import version
from pathlib import Path

import numpy as np
import optuna

from modeltailor.search.hypervolume import hypervolume
from modeltailor.search.landscapes import OPTIONS, Interval, Told, make_landscape, true_hypervolume
from modeltailor.search.plan import SamplerName
from modeltailor.search.sampler import CostTable, Goal, OptionCost, SearchSpace, SiteCosts, make_sampler

DATA = Path(os.environ.get("MODELTAILOR_DATA", Path(__file__).resolve().parents[1] / ".." / "shared" / "data"))
Values = tuple[float, float, float]
Row = dict[str, object]
BUDGET = {20: 36, 100: 60, 1000: 96}  # three, five and eight dozen evaluations
LONG = {20: 400, 100: 200, 1000: 96}  # what the others get


def run_study(
    name: SamplerName,
    space: SearchSpace,
    costs: CostTable,
    goal: Goal,
    evaluate: Callable[[dict[str, str]], Values],
    uniform: Sequence[str],
    n: int,
    seed: int,
) -> tuple[list[Values], float]:
    """Values of ``n`` evaluations, the uniform formats first, and the median seconds of one proposal."""
    encoding = "packed" if name == "tailor" and space.n_sites > 200 else "name" if name == "tailor" else "ordinal"
    space = replace(space, encoding=encoding)
    sampler = make_sampler(name, seed=seed, space=space, costs=costs, goal=goal)
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
    for option in uniform:
        study.enqueue_trial(space.params_of(*space.uniform(option)))
    values, seconds = [], []
    for _ in range(n):
        trial = study.ask()
        started = time.process_time()
        _, assignment = space.suggest(trial)
        seconds.append(time.process_time() - started)
        values.append(evaluate(assignment))
        study.tell(trial, values[-1])
    return values, statistics.median(seconds[len(uniform) :])


def curve(values: Sequence[Values], reference: Sequence[float], marks: Sequence[int]) -> list[float]:
    return [hypervolume(values[:k], reference) for k in marks]


# --- toys -------------------------------------------------------------------------------------------------------------


def toy_case(
    n: int, interactions: bool, told: Told, name: SamplerName, evaluations: int, truth: Sequence[Interval]
) -> Row:
    """One row: shares of the true hypervolume by number of evaluations, one a seed."""
    marks = [k for k in (12, 24, 36, 60, 96, 200, 400) if k <= evaluations]
    shares, proposal = [], []
    for seed, whole in enumerate(truth):
        landscape = make_landscape(n, interactions=interactions, seed=seed, told=told)
        goal = Goal(reference=(("accuracy", 0.1), ("latency", 1.0), ("size", 1.0)), loss_ceiling=0.8)
        values, seconds = run_study(
            name, landscape.space, landscape.told, goal, landscape.evaluate, OPTIONS, evaluations, seed
        )
        shares.append([v / whole.high for v in curve(values, landscape.reference, marks)])
        proposal.append(seconds)
    at = {str(k): [s[i] for s in shares] for i, k in enumerate(marks)}
    median = {k: statistics.median(v) for k, v in at.items()}
    kind = "pairs" if interactions else "additive"
    shown = "  ".join(f"@{k} {m:.4f}" for k, m in median.items())
    print(f"{n:5d} sites  {kind:8s}  told {told:5s}  {name:7s} {shown}  worst {min(s[-1] for s in shares):.4f}  "
          f"{statistics.median(proposal):.3f} s  {len(truth)} seeds", flush=True)  # fmt: skip
    return {
        "part": "toys", "sites": n, "interactions": interactions, "told": told, "sampler": name,
        "share_of_true_hypervolume": at, "median": median, "worst": {k: min(v) for k, v in at.items()},
        "proposal_s": statistics.median(proposal), "slowest_proposal_s": max(proposal),
        "truth_known_to": max((t.high - t.low) / t.high for t in truth),
    }  # fmt: skip


def toys(quick: bool, rival_seeds: int, results: list[Row], goals: list[Row]) -> None:
    sizes = [n for n in BUDGET if not (quick and n == 1000)]
    truth = {
        (n, i): [
            true_hypervolume(make_landscape(n, interactions=i, seed=s, told="exact")) for s in range(2 if quick else 5)
        ]
        for n in sizes
        for i in (False, True)
    }
    for (n, interactions), whole in truth.items():
        for told in ("scan", "guess", "sizes") if n < 1000 and not quick else ("scan",):
            row = toy_case(n, interactions, told, "tailor", BUDGET[n], whole)  # type: ignore[arg-type]
            results.append(row)
            if told == "scan":
                goals.extend(toy_goals(n, interactions, row))
    for (n, interactions), whole in truth.items():
        for name in ("random", "nsga2", "tpe"):
            if name == "tpe" and n == 1000:
                print(" 1000 sites: TPE is left out, it takes seconds a proposal")
                continue
            evaluations = BUDGET[n] if quick else LONG[n]
            results.append(toy_case(n, interactions, "scan", name, evaluations, whole[:rival_seeds]))  # type: ignore[arg-type]


def toy_goals(n: int, interactions: bool, row: Row) -> list[Row]:
    kind, few = "pairs" if interactions else "additive", str(BUDGET[n])
    shares, slowest = row["share_of_true_hypervolume"], row["slowest_proposal_s"]
    assert isinstance(shares, dict)
    assert isinstance(slowest, float)
    last = shares[few]
    found: list[Row] = [{
        "name": f"{n} sites, {kind}: share of the true hypervolume after {few}", "goal": 0.99,
        "value": statistics.median(last), "spread": [min(last), max(last)], "met": statistics.median(last) >= 0.99,
    }]  # fmt: skip
    if n == 1000:
        found.append({
            "name": f"seconds of one proposal at {n} sites, {kind}, slowest of the seeds' medians", "goal": 0.5,
            "value": slowest, "met": slowest <= 0.5,
        })  # fmt: skip
    return found


# --- ResNet20 ---------------------------------------------------------------------------------------------------------

RESNET_OPTIONS = ("fp32", "w8a8", "w4a8", "w3a8", "w2a8", "w8", "w4")


class ResNet20:
    """Builds, scores and times recipes of ResNet20 on CIFAR-10; remembers what was measured."""

    def __init__(self, table: Path | None, n_images: int) -> None:
        # Sibling script: the network and its data are those of the benchmark of formats.
        import safetensors.torch
        import torch

        from modeltailor.compress.formats import Composer

        script = Path(__file__).with_name("formats.py")
        spec = importlib.util.spec_from_file_location("benchmark_formats", script)
        assert spec is not None
        assert spec.loader is not None
        formats = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = formats
        spec.loader.exec_module(formats)
        network = formats.ResNet(3)
        network.load_state_dict(
            safetensors.torch.load_file(DATA / "cifar10_jpeg" / "resnet20.safetensors"), strict=False
        )
        torch.set_num_threads(1)
        path = formats.exported(network.eval(), Path(tempfile.mkdtemp()))
        calibration, _ = formats.images("train", 512)
        self.images, self.labels = formats.images("test", n_images)
        self.composer = Composer(path, {"input": calibration})
        self.input = "input"
        self.table = table
        self.known: dict[str, Values] = {}
        self.ratios: dict[str, float] = {}
        if table is not None and table.exists():
            for line in table.read_text().splitlines():
                row = json.loads(line)
                self.known[row["key"]] = tuple(row["values"])
                self.ratios[row["kernels"]] = row["values"][1]
        self.origin = self.composer.compose({}).model_bytes
        self.origin_accuracy = self._accuracy(self.origin)

    def _session(self, model: bytes):  # type: ignore[no-untyped-def]
        from modeltailor.targets import RuntimeOptions
        from modeltailor.targets.session import open_session

        return open_session(model, RuntimeOptions())

    def _accuracy(self, model: bytes) -> float:
        session, right = self._session(model), 0
        for a in range(0, len(self.labels), 100):
            logits = session.run(None, {self.input: self.images[a : a + 100]})[0]
            right += int((logits.argmax(axis=1) == self.labels[a : a + 100]).sum())
        return right / len(self.labels)

    def _latency_ratio(self, model: bytes, quads: int = 16, runs: int = 8) -> float:
        """Candidate over original, in turns (ABBA), medians of blocks."""
        ours, origin = self._session(model), self._session(self.origin)
        feed = {self.input: self.images[:1]}

        def block(session) -> float:  # type: ignore[no-untyped-def]
            session.run(None, feed)
            times = []
            for _ in range(runs):
                started = time.perf_counter_ns()
                session.run(None, feed)
                times.append(time.perf_counter_ns() - started)
            return float(statistics.median(times))

        ratios = []
        for _ in range(quads):
            a1, b1, b2, a2 = block(origin), block(ours), block(ours), block(origin)
            ratios.append((b1 + b2) / (a1 + a2))
        return statistics.median(ratios)

    def options(self) -> list[tuple[str, tuple[str, ...]]]:  # noqa: D102
        found = []
        for site in self.composer.sites:
            names = {f.name for f in self.composer.formats(site)}
            found.append((site.name, tuple(o for o in RESNET_OPTIONS if o in names)))
        return found

    def evaluate(self, assignment: dict[str, str]) -> Values:  # noqa: D102
        from modeltailor.compress import Format

        key = json.dumps(assignment, sort_keys=True)
        if key not in self.known:
            made = self.composer.compose({s: Format.parse(f) for s, f in assignment.items()})
            loss = self.origin_accuracy - self._accuracy(made.model_bytes)
            # What is stored packed is unfolded while loading: recipes that differ in storage only run the same kernels,
            # and get the same, more carefully measured time. Else more evaluations would win by lucky timings alone.
            kernels = "".join("i" if f.endswith("a8") else "f" for _, f in sorted(assignment.items()))
            if kernels not in self.ratios:
                self.ratios[kernels] = self._latency_ratio(made.model_bytes)
            self.known[key] = (loss, self.ratios[kernels], len(made.model_bytes) / len(self.origin))
            if self.table is not None:
                with self.table.open("a") as out:
                    out.write(json.dumps({"key": key, "kernels": kernels, "values": self.known[key]}) + "\n")
        return self.known[key]

    def told(self) -> CostTable:
        """What a run knows before searching: sensitivities, stored bytes, and time shared out by work."""
        from modeltailor.compress import Format
        from modeltailor.estimators.sensitivity import sensitivities

        loss = sensitivities(self.composer, formats=RESNET_OPTIONS)
        options = dict(self.options())
        whole = len(self.origin)
        fast = self.evaluate({s: "w8a8" if "w8a8" in o else o[0] for s, o in options.items()})[1]
        macs = sum(s.macs for s in self.composer.sites) or 1
        stored: dict[tuple[str, str], float] = {}
        for option in RESNET_OPTIONS:
            made = self.composer.compose({s: Format.parse(option) for s, o in options.items() if option in o})
            for report in made.sites:
                stored[report.site, report.format] = report.stored_bytes / whole
        sites = []
        for site in self.composer.sites:
            costs = []
            for name in options[site.name]:
                is_int8 = name.endswith("a8")
                costs.append(OptionCost(
                    loss=loss.get((site.name, name), 0.0), latency_ms=site.macs / macs * (fast if is_int8 else 1.0),
                    size_bytes=stored[site.name, name], domain="int8" if is_int8 else "float",
                ))  # fmt: skip
            sites.append(SiteCosts(site=site.name, options=tuple(costs)))
        weights = sum(stored[s.name, "fp32"] for s in self.composer.sites)
        return CostTable(sites=tuple(sites), fixed_size_bytes=max(0.0, 1.0 - weights))


def resnet20(quick: bool, table: Path | None, seeds: int, rivals: int, results: list[Row], goals: list[Row]) -> None:
    from modeltailor.search.sampler import Decision

    net = ResNet20(table, 500 if quick else 1000)
    started = time.perf_counter()
    told = net.told()
    told_s = time.perf_counter() - started
    space = SearchSpace(decisions=tuple(Decision(name=s, options=o) for s, o in net.options()))
    reference = (0.1, 1.0, 1.0)
    goal = Goal(reference=(("accuracy", 0.1), ("latency", 1.0), ("size", 1.0)), loss_ceiling=net.origin_accuracy - 0.1)
    reached: dict[str, list[list[float]]] = {}
    marks = sorted({12, 20, 40, 60, 100, 130, 200, 300, 400, rivals})
    for seed in range(seeds):
        for name, n in (("tailor", 60), ("tpe", 60 if quick else rivals), ("nsga2", 60 if quick else rivals)):
            values, _ = run_study(
                name, space, told, goal, net.evaluate, RESNET_OPTIONS, n, seed  # type: ignore[arg-type]
            )  # fmt: skip
            found = curve(values, reference, [k for k in marks if k <= n])
            reached.setdefault(name, []).append(found)
            print(
                f"ResNet20 seed {seed} {name:7s} "
                + "  ".join(f"@{k} {v:.5f}" for k, v in zip(marks, found, strict=False)),
                flush=True,
            )
    for name, rows in reached.items():
        at = {str(k): [r[i] for r in rows] for i, k in enumerate(marks) if i < len(rows[0])}
        results.append({"part": "resnet20", "sampler": name, "hypervolume": at, "told_s": told_s,
                        "median": {k: statistics.median(v) for k, v in at.items()}})  # fmt: skip
    ours = statistics.median(r[marks.index(20)] for r in reached["tailor"])
    for rival in ("tpe", "nsga2"):
        theirs = statistics.median(r[-1] for r in reached[rival])
        n = marks[len(reached[rival][0]) - 1]
        goals.append({
            "name": f"ResNet20: hypervolume after 20 over that of {rival} after {n} ({seeds} seeds)", "goal": 1.0,
            "value": ours / theirs, "met": ours >= theirs,
        })  # fmt: skip


# --- output -----------------------------------------------------------------------------------------------------------


def plot(results: Sequence[Row]) -> str:
    """Median share of the true hypervolume by evaluations, one panel a landscape, as SVG."""
    panels: dict[tuple[object, ...], list[Row]] = {}
    for row in results:
        if row["part"] == "toys":
            panels.setdefault((row["sites"], row["interactions"], row["told"]), []).append(row)
    colours = {"tailor": "#c2410c", "tpe": "#1d4ed8", "nsga2": "#15803d", "random": "#737373"}
    width, height, left = 300, 200, 45
    out = io.StringIO()
    out.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="{3 * (width + left)}" '
              f'height="{-(-len(panels) // 3) * (height + 60)}" font-family="sans-serif" font-size="11">')  # fmt: skip
    for i, (key, rows) in enumerate(panels.items()):
        x0, y0 = left + (i % 3) * (width + left), 30 + (i // 3) * (height + 60)
        title = f"{key[0]} sites, {'pairs' if key[1] else 'additive'}, told: {key[2]}"
        out.write(f'<text x="{x0}" y="{y0 - 8}">{escape(title)}</text>')
        out.write(f'<rect x="{x0}" y="{y0}" width="{width - 20}" height="{height}" fill="none" stroke="#999"/>')

        def at(k: float, share: float, x0: int = x0, y0: int = y0) -> str:
            x = x0 + (width - 20) * np.log(k / 10) / np.log(42)
            return f"{x:.1f},{y0 + height * (1 - (max(share, 0.9) - 0.9) / 0.1):.1f}"

        for share in (0.9, 0.95, 0.99):
            _, y = at(10, share).split(",")
            out.write(f'<text x="{x0 - 32}" y="{float(y) + 4}">{share:.2f}</text>')
            out.write(f'<path d="M{x0},{y} h{width - 20}" stroke="#ddd"/>')
        for row in rows:
            shares = row["share_of_true_hypervolume"]
            assert isinstance(shares, dict)
            colour = colours[str(row["sampler"])]
            points = {int(k): sorted(v) for k, v in shares.items()}
            band = [at(k, v[0]) for k, v in points.items()] + [at(k, v[-1]) for k, v in reversed(points.items())]
            out.write(f'<polygon points="{" ".join(band)}" fill="{colour}" opacity="0.15"/>')
            line = " ".join(at(k, statistics.median(v)) for k, v in points.items())
            out.write(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for j, row in enumerate(rows):
            out.write(f'<text x="{x0 + 60 * j}" y="{y0 + height + 30}" fill="{colours[str(row["sampler"])]}">'
                      f'{escape(str(row["sampler"]))}</text>')  # fmt: skip
        for k in (12, 36, 96, 400):
            x, _ = at(k, 0.9).split(",")
            out.write(f'<text x="{x}" y="{y0 + height + 14}">{k}</text>')
    out.write("</svg>")
    return out.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="two seeds, 20 and 100 sites, no long runs of the others")
    parser.add_argument("--only", default="toys,resnet20", help="parts, by comma")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--table", type=Path, help="JSON lines of measured ResNet20 recipes, read and extended")
    parser.add_argument("--seeds", type=int, default=5, help="of the ResNet20 part")
    parser.add_argument("--rival-evaluations", type=int, default=400, help="what the others get on ResNet20")
    parser.add_argument("--rival-seeds", type=int, default=5, help="of the other samplers on the toys")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    results: list[Row] = []
    goals: list[Row] = []
    if "toys" in args.only:
        toys(args.quick, args.rival_seeds, results, goals)
    if "resnet20" in args.only:
        if (DATA / "cifar10_jpeg" / "resnet20.safetensors").exists():
            resnet20(args.quick, args.table, 1 if args.quick else args.seeds, args.rival_evaluations, results, goals)
        else:
            print("ResNet20 is left out: its data is not there")
    for goal in goals:
        print(f"{'met   ' if goal['met'] else 'MISSED'} {goal['name']}: {goal['value']:.4f} (goal {goal['goal']})")
    environment = {
        "python": platform.python_version(), "machine": platform.machine(), "cores": str(os.cpu_count()),
        **{p: version(p) for p in ("modeltailor", "optuna", "numpy", "scipy")},
    }  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps({"environment": environment, "results": results, "goals": goals}, indent=1))
    if args.plot:
        args.plot.write_text(plot(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
