from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from modeltailor.reports import RunSummary, render_html, summarize
from modeltailor.reports.packing import packed, unpacked
from modeltailor.reports.synthetic import synthetic_history

EVIL = "</script><script>alert({i})</script>\u202e\u0000\"'&{stage}{block}<img src=x onerror=alert(1)>" + "A" * 10_000


class _Page(HTMLParser):
    """Tags with their attributes, and the text of scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids.add(dict(attrs).get("id") or "")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style") and data.strip():
            self.raw.append((*self.tags[-1], data))


def _parse(text: str) -> _Page:
    page = _Page()
    page.feed(text)
    return page


def _data(text: str) -> dict[str, Any]:
    page = _parse(text)
    found: Any = unpacked(next(d for tag, a, d in page.raw if tag == "script" and a.get("type") == "text/plain"))
    assert isinstance(found, dict)
    return found


def test_sizes_stay_in_bounds(large: RunSummary) -> None:
    assert len(large.models) >= 60
    assert len(large.trials) == 500
    assert len(large.models[0].recipe.sites) == 200
    assert len(render_html(large).encode()) < 600_000
    usual = summarize(synthetic_history(500, 60, 40, seed=2))
    assert len(render_html(usual).encode()) < 300_000


def test_the_page_needs_nothing_but_itself(summary: RunSummary) -> None:
    text = render_html(summary)
    page = _parse(text)
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
        assert "src" not in attributes
        assert not (attributes.get("href") or "#").startswith(("http", "//"))
        assert not any(name.startswith("on") for name in attributes)
    code = "".join(d for tag, a, d in page.raw if a.get("type") != "text/plain")
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|import\(|@import|url\(|innerHTML|outerHTML|eval\(", code)


def test_the_security_policy_allows_exactly_this_script_and_style(summary: RunSummary) -> None:
    page = _parse(render_html(summary))
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    for tag, attributes, text in page.raw:
        if attributes.get("type") != "text/plain":
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_every_part_that_the_script_asks_for_is_there(summary: RunSummary) -> None:
    page = _parse(render_html(summary))
    script = next(d for tag, a, d in page.raw if tag == "script" and not a.get("type"))
    assert set(re.findall(r'byId\("([a-z-]+)"\)', script)) <= page.ids


def test_hostile_names_stay_text() -> None:
    found = summarize(synthetic_history(40, site_name=EVIL, title=EVIL.format(i=1, stage=2, block=3), seed=4))
    text = render_html(found)
    page = _parse(text)
    assert sum(t == "script" for t, _ in page.tags) == 2
    assert not any(t == "img" for t, _ in page.tags)
    assert "\u202e" not in text
    assert "\u0000" not in text
    assert "A" * 300 not in text
    names = _data(text)["layers"]["names"]
    assert all(len(n) <= 120 for n in names)
    assert names[0].startswith("</script><script>alert(0)")  # shown as it is, as text
    assert len(text) < 200_000
    for model in _data(text)["models"]:
        assert all(len(fall[0]) <= 60 for fall in model["profile"]["falls"]) if model["profile"] else True


@pytest.mark.parametrize("n_trials", [0, 1, 3])
def test_a_run_that_has_only_begun_has_a_page(n_trials: int) -> None:
    found = summarize(synthetic_history(n_trials, finished=False))
    text = render_html(found)
    assert found.verdict.headline.split(":")[0] in text
    assert len(_data(text)["trials"]) == n_trials


def _near(shown: float | None, value: float | None) -> bool:
    """Equal to the digits that the page holds; unknown stays unknown."""
    return shown is value is None or (shown is not None and shown == pytest.approx(value, rel=5e-3))


def test_figures_on_the_page_are_those_of_the_summary(summary: RunSummary) -> None:
    data = _data(render_html(summary))
    assert len(data["models"]) == len(summary.models)
    layers = data["layers"]
    sensitivities = {(name, fmt): value for name, fmt, value in layers["sensitivities"]}
    for held, model in zip(data["models"], summary.models, strict=True):
        assert held["key"] == model.key
        assert held["latency"] == [model.latency_ms.value, model.latency_ms.low, model.latency_ms.high]
        assert held["speed"] == [model.speedup.value, model.speedup.low, model.speedup.high]
        assert held["size"] == model.size_bytes
        assert held["judged"] == model.judged.model_dump()
        assert held["search"][0] == pytest.approx(model.accuracy.search.value, rel=1e-6)
        for i, site in enumerate(model.recipe.sites):
            name, kind, elements, macs, channels, kept, rank = layers["layouts"][held["layout"]][i]
            fmt, bits, kernel, _ = layers["palette"][held["cells"][i]]
            assert (kind, macs, channels, rank) == (site.kind, site.macs, site.channels, site.rank)
            assert _near(kept, site.channels_kept)
            assert _near(sensitivities.get((name, fmt)), site.sensitivity)
            for column, value in (
                ("bytesOf", site.bytes_of_fp32), ("time", site.time_share), ("ms", site.time_ms),
                ("timeOf", site.time_of_fp32), ("zeros", site.sparsity),
            ):  # fmt: skip
                assert _near((held.get(column) or [None] * (i + 1))[i], value), column
            assert layers["names"][name] == site.site
            assert (fmt, bits, kernel, elements) == (
                site.format, site.storage_bits, site.executed_kernel, site.weight_elements
            )  # fmt: skip
            assert held["bytes"][i] == site.stored_bytes
        profile = model.profile
        assert (held["profile"] is None) == (profile is None)
        if profile is not None:
            assert held["profile"]["sentence"] == profile.sentence
            assert held["profile"]["conversion"] == pytest.approx(profile.conversion_share, rel=1e-5)
            assert held["profile"]["between"] == pytest.approx(model.between_layers, rel=1e-5)
            assert [p for p, _ in held["profile"]["compute"]] == [p for p, _ in profile.compute_share]
    for row, trial in zip(data["trials"], summary.trials, strict=True):
        assert (row[0], row[1], row[5]) == (trial.number, trial.key, trial.outcome)
        assert row[11] == trial.size_bytes
        if trial.latency_ms:
            assert row[9][0] == pytest.approx(trial.latency_ms.value, rel=1e-5)


@pytest.mark.skipif(shutil.which("node") is None, reason="node runs the page's own reader")
@pytest.mark.parametrize("data", [{}, {"a": "\u2028é\n" * 3}, [i * 0.37 for i in range(4000)], "A" * 70_000])
def test_the_page_reads_back_what_was_packed(data: Any, tmp_path: Path) -> None:
    script = files("modeltailor.reports.templates").joinpath("inflate.js").read_text()
    (tmp_path / "inflate.js").write_text(script)
    code = "process.stdout.write(require('./inflate.js').inflated(require('fs').readFileSync(0, 'latin1')))"
    done = subprocess.run(
        ["node", "-e", code], cwd=tmp_path, input=packed(data), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == data == unpacked(packed(data))
