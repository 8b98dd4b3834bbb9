"""The documentation site, as far as it can be checked without mkdocs: pages, their order, and what they must name."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

import cycleqd_merge
from cycleqd_merge import plugins
from cycleqd_merge.cli import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def hook() -> Any:
    """The hook that generates pages; it is not part of any package."""
    spec = importlib.util.spec_from_file_location("site_pages", DOCS / "site_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES: dict[str, str] = hook().generated_pages()


def in_order(nav: Any) -> Iterator[str]:
    """The pages of the navigation."""
    if isinstance(nav, str):
        yield nav
    for each in nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else ():
        yield from in_order(each)


def test_the_navigation_has_every_page_once() -> None:
    nav = list(in_order(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    assert sorted(nav) == sorted([*(path.name for path in DOCS.glob("*.md")), *PAGES])


def test_links_of_the_files_at_the_root_lead_to_pages() -> None:
    for page in hook().ROOT_PAGES.values():
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", PAGES[page]):
            assert target in PAGES or (DOCS / target).exists(), f"{page}: {target}"


def test_links_from_docs_to_the_root_lead_to_pages() -> None:
    markdown = "[a](../README.md#quickstart), [b](tasks.md#data), [c](https://example.org/../README.md), ![d](../x.png)"
    changed = hook().on_page_markdown(markdown, page=None)
    assert changed == markdown.replace("../README.md#quickstart", "quickstart.md#quickstart")


def test_the_command_line_page_has_every_command_and_option() -> None:
    page = PAGES["cli.md"]
    commands = get_command(app).commands  # type: ignore[attr-defined]
    groups = {name: getattr(command, "commands", {}) for name, command in commands.items()}
    for name in [*commands, *(f"{group} {name}" for group, below in groups.items() for name in below)]:
        assert re.search(rf"^##+ {name}$", page, re.MULTILINE), name
    for command in [*commands.values(), *(command for below in groups.values() for command in below.values())]:
        assert all(option in page for param in command.params for option in param.opts if option.startswith("--"))


@pytest.mark.parametrize("kind", ["recipe", "task"])
def test_the_pages_on_keys_have_every_key_and_no_dead_link(kind: str) -> None:
    schema, page = json.loads((DOCS / f"{kind}.schema.json").read_text()), PAGES[f"{kind}-reference.md"]
    others = json.loads((DOCS / "task.schema.json").read_text())["$defs"] if kind == "recipe" else {}
    own = {name: each for name, each in schema["$defs"].items() if name not in others}
    for each in [schema, *own.values()]:
        for key in each.get("properties", {}):
            assert f"\n| `{key}` |" in page, key
    anchors = re.findall(r"\{ #(\S+) \}", page)
    assert len(anchors) == len(set(anchors))
    for name, anchor in re.findall(r"\]\(([a-z-]*(?:\.md)?)#([^)]+)\)", page):
        assert f"{{ #{anchor} }}" in (PAGES[name] if name else page), anchor


def test_the_api_page_names_all_that_is_exported_and_nothing_that_does_not_exist() -> None:
    documented = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    for name in documented:
        assert _found(name), name
    assert {f"cycleqd_merge.{name}" for name in cycleqd_merge.__all__} <= set(documented)
    listed = {name.rpartition(".")[2] for name in documented}
    assert set(plugins.__all__) <= listed


def _found(name: str) -> bool:
    """Whether a dotted name is that of a module, or of something in one."""
    parent, _, last = name.rpartition(".")
    return hasattr(import_module(parent), last) or importlib.util.find_spec(name) is not None


def test_the_glossary_is_in_alphabetical_order() -> None:
    terms = re.findall(r"^## (.+)", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert terms == sorted(terms, key=str.lower)
    assert len(terms) == len(set(terms))
