"""A user's strategy that proposes mergekit configurations, `tests.run.grids:Grid`, and recipes that name it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from cycleqd_merge.evolution.candidate import MergekitConfiguration
from cycleqd_merge.strategies.protocol import Proposal, Result
from cycleqd_merge.strategies.state import SearchState
from tests.cli.conftest import Models, write_recipe

METHODS = ("linear", "ties", "slerp", "dare_ties")
SEED = 3
"""What `dare_ties` draws from."""


def grid(base: str, experts: list[str], dtype: str = "bfloat16") -> list[tuple[str, MergekitConfiguration]]:
    """A configuration of each method, in the order of `METHODS`."""
    weighted = [{"model": expert, "parameters": {"weight": 0.6, "density": 0.5}} for expert in experts]
    stated: dict[str, dict[str, Any]] = {
        "linear": {
            "models": [
                {"model": base, "parameters": {"weight": 0.9}},
                *({"model": expert, "parameters": {"weight": 0.1 / len(experts)}} for expert in experts),
            ]
        },
        "ties": {"base_model": base, "models": weighted, "parameters": {"normalize": True}},
        "slerp": {"base_model": base, "models": [{"model": experts[0]}], "parameters": {"t": 0.3}},
        "dare_ties": {"base_model": base, "models": weighted},
    }
    found = []
    for method in METHODS:
        text = yaml.safe_dump({"merge_method": method, "dtype": dtype, **stated[method]}, sort_keys=False)
        found.append((method, MergekitConfiguration(text, SEED if method == "dare_ties" else 0)))
    return found


class Grid:
    """Evaluates the founders, then a configuration of each method over base and experts, again and again."""

    def __init__(self, space: SearchState, seed: int, models: Mapping[str, Any]) -> None:
        self.space, self.grid = space, grid(**models)

    def ask(self, number: int) -> Proposal | None:
        """See `Strategy`."""
        if number < self.space.first:
            return self.space.founder(number)
        method, candidate = self.grid[(number - self.space.first) % len(self.grid)]
        return self.space.propose(number, candidate, {"method": method})

    def tell(self, result: Result) -> None:
        """See `Strategy`."""
        self.space.tell(result)


def write_grid_recipe(folder: Path, models: Models, base: str, experts: list[str]) -> Path:
    """A recipe whose strategy proposes a configuration of each method; they beat experts that are far from the base.

    base, experts: what recipe and strategy call the models.
    """
    options = {"models": {"base": base, "experts": experts}}
    recipe = write_recipe(
        folder,
        models,
        base=base,
        experts=dict(zip(("first", "second"), experts, strict=True)),
        strategy={"kind": "python", "target": "tests.run.grids:Grid", "options": options},
        evolution={"generations": len(METHODS), "in_flight": 2, "bins": 10, "mutation": {"kind": "none"}},
    )
    for rows in folder.glob("*.jsonl"):
        say_what_the_base_says(models.base, rows)
    return recipe


def say_what_the_base_says(base: Path, rows: Path) -> None:
    """Let a file's answers be the base model's own: the nearer a model is to the base, the better it scores."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    choices = torch.tensor([tokenizer.convert_tokens_to_ids(letter) for letter in "abc"])
    stated = [json.loads(line) for line in rows.read_text().splitlines()]
    for row in stated:
        with torch.inference_mode():
            logits = model(**tokenizer(f"{row['question']}: ", return_tensors="pt")).logits
        row["answer"] = "abc"[int(logits[0, -1, choices].argmax())]
    rows.write_text("".join(json.dumps(row) + "\n" for row in stated))


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
