"""The documentation names commands, options, files and objects that exist."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from modeltailor.cli import cli
from modeltailor.job_reference import job_reference
from modeltailor.targets.profile import Profile

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
IDS = [str(p.relative_to(ROOT)) for p in PAGES]


def _blocks(page: Path, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def _commands(page: Path) -> list[list[str]]:
    """Lines of plain blocks that call us, and calls within the text."""
    lines = [ln for block in _blocks(page, "") for ln in block.splitlines()]
    lines += re.findall(r"`(modeltailor [^`\n]+)`", page.read_text())
    found = [shlex.split(ln, comments=True) for ln in lines if ln.strip().startswith("modeltailor ")]
    return [words[1:] for words in found]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in _commands(page):
        context = click.Context(cli, info_name="modeltailor")
        command: click.Command = cli
        rest = [w for w in words if w not in ("...", "…")]
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            found = command.get_command(context, rest[0])
            assert found is not None, f"{page.name}: modeltailor {' '.join(words)}"
            command, rest = found, rest[1:]
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h", "--debug"}
        for word in rest:
            if word.startswith("--"):
                assert word.split("=")[0] in known, f"{page.name}: modeltailor {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_in_the_text_is_python(page: Path) -> None:
    for block in _blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("modeltailor"):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "how-to").glob("*.md")), ids=lambda p: p.stem)
def test_profiles_in_the_text_are_valid(page: Path) -> None:
    for block in _blocks(page, "yaml"):
        profile = Profile.model_validate(yaml.safe_load(block))
        assert profile.reach in ("local", "ssh")


def test_the_page_of_the_job_file_says_what_its_fields_say() -> None:
    page = ROOT / "docs" / "job-file.md"
    assert page.read_text() == job_reference(), f"run: python -m modeltailor.job_reference > {page.relative_to(ROOT)}"


def test_the_site_lists_every_page_and_documents_what_exists() -> None:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    named = set(hooks.listed(config["nav"]))
    config["docs_dir"] = str(ROOT / "docs")
    listed = set(hooks.listed(hooks.on_config(config)["nav"]))
    written = {str(p.relative_to(ROOT / "docs")) for p in PAGES if p.is_relative_to(ROOT / "docs")}
    assert listed == written
    assert named <= written
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for name in re.findall(r"^::: (\S+)$", page.read_text(), flags=re.MULTILINE):
            module, _, attribute = name.rpartition(".")
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                assert hasattr(importlib.import_module(module), attribute), name


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    package = ROOT / "build" / "docs" / "package"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--upgrade",
        "--target",
        str(package),
        str(ROOT),
    ]
    subprocess.run(install, check=True)
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe|link)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text())
        assert not [u for u in loaded if "canonical" not in u], page.name
