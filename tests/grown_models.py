"""Tiny models with tokens beyond the common ones, and with any number of rows for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from cycleqd_merge.evolution.draws import generator
from tests.models import VOCABULARY, edit_json, make_base, make_expert

IM_START, IM_END, TOOL = "<|im_start|>", "<|im_end|>", "<tool>"
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


@dataclass(frozen=True)
class Grown:
    """A model's tokens beyond the 100 of every tiny model, by id, and the number of rows of its vocabulary."""

    tokens: Mapping[int, str] = field(default_factory=dict)
    rows: int = VOCABULARY


def make_grown(folder: Path, grown: Grown, seed: int, base: Path | None, **options: Any) -> Path:
    """A base, or a fine-tune of one with the tiny vocabulary, with these tokens and rows."""
    made = make_base(folder, seed=0, **options) if base is None else make_expert(base, folder, seed)
    set_rows(made, grown.rows, seed)
    add_tokens(made, grown.tokens)
    return made


def set_rows(folder: Path, rows: int, seed: int) -> None:
    """Cut the vocabulary of a model's tensors, or add random rows."""
    path = folder / "model.safetensors"
    tensors = {name: _resized(name, tensor, rows, seed) for name, tensor in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})
    edit_json(folder / "config.json", vocab_size=rows)


def _resized(name: str, tensor: torch.Tensor, rows: int, seed: int) -> torch.Tensor:
    if name not in ("model.embed_tokens.weight", "lm_head.weight", "transformer.wte.weight"):
        return tensor
    more = generator(seed, name).normal(size=(max(0, rows - VOCABULARY), tensor.shape[1]))
    return torch.cat([tensor[:rows], torch.from_numpy(more).to(tensor.dtype)]).contiguous()


def add_tokens(folder: Path, tokens: Mapping[int, str], **flags: bool) -> None:
    """Add tokens to a folder's tokenizer at these ids, also with gaps: those must be in its model's vocabulary too."""
    path = folder / "tokenizer.json"
    stated = json.loads(path.read_text())
    gaps = sorted(tokens) != list(range(VOCABULARY, VOCABULARY + len(tokens)))
    for number in sorted(tokens):
        stated["added_tokens"].append({"id": number, "content": tokens[number], **FLAGS, **flags})
        if gaps:
            stated["model"]["vocab"][tokens[number]] = number
    path.write_text(json.dumps(stated))
