"""Hooks of mkdocs: every page can be reached, and docstrings that name classes in reStructuredText show them as code."""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):(?=<code>)")
_TILDE = re.compile(r"<code>~[\w.]*\.(\w+)</code>")
_REST = "Reference"


def listed(nav: object) -> Iterator[str]:
    """Paths of the pages that a navigation names."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for part in nav.values():
            yield from listed(part)
    elif isinstance(nav, list):
        for part in nav:
            yield from listed(part)


def on_config(config: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put pages that the navigation does not name at the end of its reference part."""
    known, folder = set(listed(config["nav"])), Path(config["docs_dir"])
    section = next(part[_REST] for part in config["nav"] if _REST in part)
    section += [
        str(p.relative_to(folder)) for p in sorted(folder.rglob("*.md")) if str(p.relative_to(folder)) not in known
    ]
    return config


def on_page_content(html: str, **_: object) -> str:
    """Drop roles in front of code, and the paths of shortened names."""
    return _TILDE.sub(r"<code>\1</code>", _ROLE.sub("", html))
