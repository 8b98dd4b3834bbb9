"""Write a recipe with six tasks: the quickstart's three, each divided in two by the first letter of the word.

    python benchmarks/six_tasks.py FOLDER
    cycleqd-merge compare FOLDER/six-tasks.yaml

More than four tasks have archives by dominated novelty (docs/operators.md).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

RECIPES = Path(__file__).parent.parent / "recipes"


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    recipe = yaml.safe_load((RECIPES / "quickstart.yaml").read_text())
    recipe["base"] = str(RECIPES / recipe["base"])
    recipe["experts"] = {name: str(RECIPES / path) for name, path in recipe["experts"].items()}
    recipe["tasks"] = [half for use in recipe["tasks"] for half in halves(use, folder)]
    recipe["output"] = str(folder / "run")
    (folder / "six-tasks.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))


def halves(use: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """A task's use twice, with the words from A to M and from N to Z."""
    found = []
    for part in ("early", "late"):
        data = {}
        for split, source in use["task"]["data"].items():
            lines = (RECIPES / source["path"]).read_text().splitlines()
            kept = [line for line in lines if (word(json.loads(line)) < "n") == (part == "early")]
            data[split] = {"path": str(folder / f"{use['name']}-{part}-{split}.jsonl")}
            Path(data[split]["path"]).write_text("".join(line + "\n" for line in kept))
        found.append({**use, "name": f"{use['name']}-{part}", "task": {**use["task"], "data": data}})
    return found


def word(row: dict[str, str]) -> str:
    """The word that a row asks about: prompts are a letter for the skill, a colon and the word."""
    return row["prompt"].partition(":")[2]


if __name__ == "__main__":
    main()
