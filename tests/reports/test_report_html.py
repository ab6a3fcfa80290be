from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from modeltailor.reports import RunSummary, render_html, summarize
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
    block = next(d for tag, a, d in page.raw if tag == "script" and a.get("type") == "application/json")
    found: dict[str, Any] = json.loads(block)
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
    code = "".join(d for tag, a, d in page.raw if a.get("type") != "application/json")
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|import\(|@import|url\(|innerHTML|outerHTML|eval\(", code)


def test_the_security_policy_allows_exactly_this_script_and_style(summary: RunSummary) -> None:
    page = _parse(render_html(summary))
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    for tag, attributes, text in page.raw:
        if attributes.get("type") != "application/json":
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


@pytest.mark.parametrize("n_trials", [0, 1, 3])
def test_a_run_that_has_only_begun_has_a_page(n_trials: int) -> None:
    found = summarize(synthetic_history(n_trials, finished=False))
    text = render_html(found)
    assert found.verdict.headline.split(":")[0] in text
    assert len(_data(text)["trials"]) == n_trials


def test_figures_on_the_page_are_those_of_the_summary(summary: RunSummary) -> None:
    data = _data(render_html(summary))
    assert len(data["models"]) == len(summary.models)
    layers = data["layers"]
    for packed, model in zip(data["models"], summary.models, strict=True):
        assert packed["key"] == model.key
        assert packed["latency"] == [model.latency_ms.value, model.latency_ms.low, model.latency_ms.high]
        assert packed["speed"] == [model.speedup.value, model.speedup.low, model.speedup.high]
        assert packed["size"] == model.size_bytes
        assert packed["judged"] == model.judged.model_dump()
        assert packed["search"][0] == pytest.approx(model.accuracy.search.value, rel=1e-6)
        for i, site in enumerate(model.recipe.sites):
            name, _, elements, _ = layers["layouts"][packed["layout"]][i]
            fmt, bits, kernel, _ = layers["palette"][packed["cells"][i]]
            assert layers["names"][name] == site.site
            assert (fmt, bits, kernel, elements) == (
                site.format, site.storage_bits, site.executed_kernel, site.weight_elements
            )  # fmt: skip
            assert packed["bytes"][i] == site.stored_bytes
    for row, trial in zip(data["trials"], summary.trials, strict=True):
        assert (row[0], row[1], row[5]) == (trial.number, trial.key, trial.outcome)
        assert row[11] == trial.size_bytes
        if trial.latency_ms:
            assert row[9][0] == pytest.approx(trial.latency_ms.value, rel=1e-5)
