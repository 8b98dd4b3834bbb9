"""Files that are no recipe at all are refused with a reason, and nothing in them is ever executed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cycleqd_merge.config.loading import load_recipe
from cycleqd_merge.errors import UserError
from tests.config.texts import NAMED, fault


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("- a\n- b\n", "recipe.yaml: expected keys with values; found ['a', 'b']"),
        ("hello\n", "recipe.yaml: expected keys with values; found 'hello'"),
        ("", "recipe.yaml: expected keys with values; found nothing"),
        ("# only a comment\n", "recipe.yaml: expected keys with values; found nothing"),
        (
            f"{NAMED}output: y\n",
            'recipe.yaml:11: while constructing a mapping, found duplicate key "output" '
            'with value "y" (original value: "runs/x")',
        ),
        (
            f"{NAMED}evolution:\n  bins: 3\n  mu: 1\n  bins: 4\n",
            "recipe.yaml:14: while constructing a mapping, "
            'found duplicate key "bins" with value "4" (original value: "3")',
        ),
        ("base: [a\n", "recipe.yaml:2: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'"),
        (
            "base:\n\t- a\n",
            r"recipe.yaml:2: while scanning for the next token, found character '\t' that cannot start any token",
        ),
        (
            f"{NAMED}---\nbase: y\n",
            "recipe.yaml:11: expected a single document in the stream, but found another document",
        ),
        (f"{NAMED}finish: *b\n", "recipe.yaml:11: found undefined alias 'b'"),
        (
            f"{NAMED}finish: &a {{export: *a}}\n",
            "recipe.yaml:11: the alias *a is inside its own value; write the value out",
        ),
        ("[" * 600, "recipe.yaml:1: nested too deeply: more than 100 levels"),
        ("base: a\0b\n", "recipe.yaml: unacceptable character #x0000: special characters are not allowed"),
    ],
)
def test_what_is_no_mapping_is_refused_in_one_line(tmp_path: Path, text: str, line: str) -> None:
    assert fault(tmp_path, text) == line


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x01", b"base: \xe9\n"])
def test_bytes_that_are_no_text_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        load_recipe(path)
    assert str(raised.value) == f"{path}: not a text file"


def test_a_directory_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "none.yaml", "No such file or directory")):
        with pytest.raises(UserError) as raised:
            load_recipe(path)
        assert str(raised.value) == f"{path}: cannot be read: {reason}"


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system", "!!python/object/new:os.system", "!!python/name:os.system", "!mine"]
)
def test_tags_are_refused_and_build_nothing(tmp_path: Path, tag: str) -> None:
    touched = tmp_path / "touched"
    line = fault(tmp_path, f"base: {tag} ['touch {touched}']\n")
    assert line.startswith("recipe.yaml:1: YAML tags are not allowed: ")
    assert line.rstrip("'").endswith(tag.lstrip("!"))
    assert not touched.exists()


def test_tags_in_settings_are_refused_and_build_nothing(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    setting = f"base=!!python/object/apply:os.system ['touch {touched}']"
    assert "YAML tags are not allowed" in fault(tmp_path, NAMED, setting)
    assert not touched.exists()
