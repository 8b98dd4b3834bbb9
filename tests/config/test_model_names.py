"""Model references: Hub ids and folders, with revisions and adapters; a folder that exists wins over `+` and `@`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml

from cycleqd_merge.config.loading import load_recipe, override_recipe
from cycleqd_merge.config.model_names import anchored_reference, model_names
from cycleqd_merge.config.references import local_models, without_paths
from cycleqd_merge.errors import RecipeError
from cycleqd_merge.hub.portable import portable_recipe

FOLDERS = (
    "base",
    "llama+math",
    "model@v2",
    "a+b@c",
    "v1@2+x",
    "c++",
    "runs/one+two/model",
    "with space",
    "modèle",
    "it's",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with models of odd names."""
    for name in FOLDERS:
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("reference", "wanted"),
    [
        ("org/model", "org/model"),
        ("gpt2", "gpt2"),
        ("org/model@main", "org/model | main"),
        ("org/model@refs/pr/3", "org/model | refs/pr/3"),
        ("org/base+org/adapter", "org/base & org/adapter"),
        ("org/base@v1+org/adapter@v2", "org/base | v1 & org/adapter | v2"),
        *((name, name) for name in FOLDERS),
        *((f"{name}+org/adapter@v1", f"{name} & org/adapter | v1") for name in FOLDERS),
        *((f"org/base@v1+{name}", f"org/base | v1 & {name}") for name in FOLDERS),
        *((f"base+{name}", f"base & {name}") for name in FOLDERS),
        ("model@v2@main", "model@v2 | main"),
        ("base@main", "base | main"),
        ("./missing+./other", "./missing & ./other"),
        ("/missing/base+org/adapter", "/missing/base & org/adapter"),
        ("runs/none/model+base", "runs/none/model & base"),
        ("/missing/model@v3", "/missing/model@v3"),
        ("a+b+c", "a+b+c"),
        ("a@b@c", "a@b@c"),
        ("+base", "+base"),
        ("base+", "base+"),
        ("base@", "base@"),
    ],
)
def test_a_reference_is_divided_by_what_exists(folder: Path, reference: str, wanted: str) -> None:
    def shown(path: str, revision: str | None) -> str:
        return path if revision is None else f"{path} | {revision}"

    names = model_names(reference, folder)
    assert " & ".join(shown(name.path, name.revision) for name in names) == wanted
    anchored = anchored_reference(reference, folder)
    assert [name.revision for name in model_names(anchored)] == [name.revision for name in names]
    assert anchored_reference(anchored, Path("/elsewhere")) == anchored
    for before, now in zip(names, model_names(anchored), strict=True):
        local = (folder / before.path).is_dir() or before.path.startswith("./") or before.path.count("/") > 1
        assert now.path == (str(folder / before.path) if local else before.path)


def test_a_home_folder_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert anchored_reference("~/base+~/c++", Path("/elsewhere")) == f"{folder}/base+{folder}/c++"
    assert anchored_reference("~/none", Path("/elsewhere")) == f"{folder}/none"


def recipe_file(folder: Path, base: str, expert: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(
        f'base: "{base}"\nexperts:\n  x: "{expert}"\n  y: base\n'
        "tasks: [{task: smollm2-sql}, {task: smollm2-bash}]\noutput: run\n",
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize("reference", ["a+b+c", "a@b@c", "base+", "+base", "base@", "base+org/x+org/y"])
def test_a_malformed_reference_is_reported_with_its_line(folder: Path, reference: str) -> None:
    wanted = "write a model as a Hub id or a path, with `@revision` and `+adapter` where needed; "
    with pytest.raises(RecipeError) as raised:
        load_recipe(recipe_file(folder, reference, reference))
    path = folder / "recipe.yaml"
    assert str(raised.value).splitlines() == [
        f"{path}:1: base: {wanted}found {reference!r}",
        f"{path}:3: experts.x: {wanted}found {reference!r}",
    ]
    recipe = load_recipe(recipe_file(folder, "base", "base"))
    with pytest.raises(RecipeError, match=r"^--set experts.x=.*: write a model as a Hub id or a path"):
        override_recipe(recipe, [f"experts.x='{reference}'"], "recipe")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_published_recipe_names_no_path_of_this_machine(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CYCLEQD_FIXTURE", str(folder))
    recipe = load_recipe(recipe_file(folder, name, f"{name}+c++"))
    assert recipe.base == str(folder / name)
    portable = portable_recipe(recipe).recipe
    parts = [portable.base, *portable.experts["x"].split("+"), portable.experts["y"]]
    assert all(part.startswith("./models/") for part in parts)
    assert len(set(local_models(recipe))) == len({folder / each for each in (name, "c++", "base")})

    for text in (
        json.dumps([recipe.base]),
        yaml.safe_dump([recipe.base], width=math.inf),
        yaml.safe_dump([recipe.base], width=math.inf, allow_unicode=True),
    ):
        assert yaml.safe_load(without_paths(text, recipe)) == ["./models/base"]
