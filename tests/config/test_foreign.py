"""Every key of every configuration class is classified for recipes of strangers."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from cycleqd_merge.config.foreign import FIELDS, findings
from cycleqd_merge.config.origin import ForeignConfig, is_download, is_public_address
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.config.tasks import GenerateTaskConfig, TaskDefinitionConfig
from cycleqd_merge.config.values import PythonTargetConfig, StrictConfig


def classes_in(annotation: Any, seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """The configuration classes that a type mentions, and those of their keys."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
        seen.add(annotation)
        yield annotation
        for field in annotation.model_fields.values():
            yield from classes_in(field.annotation, seen)
    for part in typing.get_args(annotation):
        yield from classes_in(part, seen)


REACHABLE = sorted(classes_in(Recipe | TaskDefinitionConfig, set()), key=lambda each: each.__name__)


def test_the_walk_finds_the_classes() -> None:
    assert len(REACHABLE) >= 40
    leaves = {
        each for each in _below(StrictConfig) if not each.__subclasses__() and each.__module__.startswith("cycle")
    }
    assert leaves <= set(REACHABLE)


def _below(cls: type) -> set[type]:
    return {cls}.union(*map(_below, cls.__subclasses__()))


@pytest.mark.parametrize("cls", REACHABLE, ids=lambda each: each.__name__)
def test_every_key_is_classified(cls: type[BaseModel]) -> None:
    """Add a new key to `FIELDS`: safe in a stranger's recipe, checked, dropped by `pull`, or able to run code?"""
    assert set(FIELDS.get(cls, {})) == set(cls.model_fields)
    assert all(rule.kind in ("safe", "checked", "dropped", "code") for rule in FIELDS[cls].values())
    assert all((rule.check is not None) == (rule.kind == "checked") for rule in FIELDS[cls].values())


def test_no_class_is_listed_that_no_recipe_has() -> None:
    assert set(FIELDS) == set(REACHABLE)


def test_targets_and_their_options_run_code() -> None:
    targets = [cls for cls in FIELDS if issubclass(cls, PythonTargetConfig)]
    assert len(targets) == 3
    assert all(FIELDS[cls]["target"].kind == FIELDS[cls]["options"].kind == "code" for cls in targets)


class PluginTaskConfig(GenerateTaskConfig):
    """A class that the list does not know."""

    endpoint: str = "https://example.com"


def test_what_is_not_listed_is_refused() -> None:
    rows = {"rows": {"url": "https://example.com/x.csv", "sha256": "0" * 64}}
    stated = {"kind": "generate", "prompt": "x", "data": rows, "scorer": {"kind": "exact"}}
    task = {"task": stated, "name": "one"}
    data = {"base": "lab/base", "experts": {"a": "lab/a", "b": "lab/b"}, "output": "x"}
    commits = dict.fromkeys(("lab/base", "lab/a", "lab/b"), "0" * 40)
    recipe = Recipe.model_validate({**data, "tasks": [task, {**task, "name": "two"}], "revisions": commits})
    own = ForeignConfig(own=[["output"]])
    assert findings(recipe, own, frozenset()) == []
    plugin = PluginTaskConfig.model_validate({**stated, "endpoint": "http://localhost"})
    use = recipe.tasks[0].model_copy(update={"task": plugin})
    found = findings(recipe.model_copy(update={"tasks": [use, recipe.tasks[1]]}), own, frozenset())
    assert {each.kind for each in found} == {"code"}
    assert "tasks.0.task.endpoint" in {each.key for each in found}


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://huggingface.co/datasets/a/b/resolve/main/x.csv", True),
        ("https://raw.githubusercontent.com/a/b/x.csv?a=b#c", True),
        ("https://example.com:443/x", True),
        ("https://EXAMPLE.com./x", True),
        ("https://xn--bcher-kva.example/x", True),
        ("http://example.com/x", False),
        ("HTTPS://user@example.com/x", False),
        ("https://@example.com/x", False),
        ("https://example.com:8080/x", False),
        ("https://example.com:/x", True),
        ("https://example.com:99999/x", False),
        ("https://localhost/x", False),
        ("https://printer.local/x", False),
        ("https://a.localhost./x", False),
        ("https://10.0.0.1/x", False),
        ("https://2130706433/x", False),
        ("https://0177.0.0.1/x", False),
        ("https://[fd00::1]/x", False),
        ("https://[/x", False),
        ("https:///etc/passwd", False),
        ("https:x", False),
        ("file:///etc/passwd", False),
        ("", False),
    ],
)
def test_public_addresses(url: str, public: bool) -> None:
    assert is_public_address(url) is public


def test_downloads_are_recognised(tmp_path: Path) -> None:
    cached = tmp_path / "datasets--a--b" / "snapshots" / "0123" / "recipe.yaml"
    assert is_download(cached)
    assert is_download(cached.parent / "rows" / "x.jsonl")
    assert not is_download(tmp_path / "snapshots" / "recipe.yaml")
    record = tmp_path / ".cache" / "huggingface" / "download" / "runs" / "recipe.yaml.metadata"
    record.parent.mkdir(parents=True)
    record.write_text("")
    assert is_download(tmp_path / "runs" / "recipe.yaml")
    assert not is_download(tmp_path / "runs" / "mine.yaml")  # a folder with downloads, such as the home folder
