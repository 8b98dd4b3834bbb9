"""transformers 4 loads what is exported of bases that it wrote, and its logits are those of transformers 5.

Runs where transformers 4 is installed in a folder of its own: see `.ci/transformers4`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.merging.candidates import write_candidate
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from tests.architectures import SHARED
from tests.models import TOKENS, VOCABULARY, edit_json, make_expert, make_recipe, make_tokenizer, open_recipe_family
from tests.outputs.read_transformers4 import read

GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": VOCABULARY}
LLAMA3 = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}
LONGROPE = {"type": "longrope", "short_factor": [1.1, 1.2, 1.3, 1.4], "long_factor": [2.0, 3.0, 4.0, 5.0]}
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@dataclass(frozen=True)
class Case:
    """A base: its architecture, the keys of a config.json by transformers 4, and its tokenizer's class."""

    kind: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: str = "PreTrainedTokenizerFast"
    dtype: torch.dtype = torch.float32
    change: Callable[[Path, Path], None] | None = None
    """Changes base and first expert further."""
    template: str | None = None
    sizes: Mapping[str, Any] = field(default_factory=lambda: SHARED)


def _chatml(base: Path, expert: Path) -> None:
    """ChatML tokens that only the expert uses."""
    for folder in (base, expert):
        tokenizer = make_tokenizer()
        tokenizer.add_tokens([TOKENS[-2], TOKENS[-1]], special_tokens=True)
        save_as_version_4(tokenizer, folder)
    template = CHATML.replace("<|im_start|>", TOKENS[-2]).replace("<|im_end|>", TOKENS[-1])
    edit_json(expert / "tokenizer_config.json", chat_template=template)


def _named_templates(base: Path, expert: Path) -> None:
    named = [{"name": "default", "template": "{{ messages[0].content }}!"}, {"name": "tool_use", "template": "tool"}]
    edit_json(expert / "tokenizer_config.json", chat_template=named)


def _own_code(base: Path, expert: Path) -> None:
    for folder in (base, expert):
        (folder / "configuration_mine.py").write_text(
            "from transformers import LlamaConfig\nclass MineConfig(LlamaConfig):\n    model_type = 'mine'\n"
        )
        (folder / "modeling_mine.py").write_text(
            "from transformers import LlamaForCausalLM\nfrom .configuration_mine import MineConfig\n"
            "from .helper_mine import ONE\nclass MineForCausalLM(LlamaForCausalLM):\n    config_class = MineConfig\n"
        )
        (folder / "helper_mine.py").write_text("ONE = 1\n")
        names = {"AutoConfig": "configuration_mine.MineConfig", "AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}
        edit_json(folder / "config.json", model_type="mine", architectures=["MineForCausalLM"], auto_map=names)


CASES = {
    "llama-3": Case("llama", {"rope_theta": 500000.0, "rope_scaling": LLAMA3}),
    "llama-linear": Case(
        "llama", {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0}}, "LlamaTokenizerFast"
    ),
    "llama-bfloat16": Case("llama", {"rope_theta": 30000.0, "rope_scaling": None}, dtype=torch.bfloat16),
    "mistral": Case("mistral", {"rope_theta": 1000000.0, "sliding_window": None}, "LlamaTokenizerFast"),
    "qwen2": Case("qwen2", {"rope_theta": 1000000.0, "rope_scaling": None, "use_sliding_window": False}),
    "phi-3": Case("phi3", {"rope_theta": 20000.0, "rope_scaling": LONGROPE, "original_max_position_embeddings": 64}),
    "gemma-2": Case("gemma2", {"rope_theta": 20000.0}, sizes={**SHARED, "head_dim": 8}),
    "stablelm": Case("stablelm", {"rope_theta": 20000.0, "partial_rotary_factor": 0.5, "rope_scaling": None}),
    "gpt-2": Case("gpt2", {}, "GPT2Tokenizer", sizes=GPT2),
    "template and end token of an expert": Case("llama", {"rope_theta": 40000.0}, change=_chatml, template="first"),
    "named templates of an expert": Case("llama", {"rope_theta": 40000.0}, change=_named_templates, template="first"),
    "own code": Case("llama", {"rope_theta": 40000.0}, change=_own_code),
}


def save_as_version_4(tokenizer: Any, folder: Path, kind: str = "PreTrainedTokenizerFast") -> None:
    """Save a tokenizer with the class `kind` and its template in its configuration."""
    tokenizer.save_pretrained(folder)
    template, path = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    stated = json.loads(path.read_text())
    stated.pop("backend", None)
    stated |= {"tokenizer_class": kind, "chat_template": template.read_text()}
    template.unlink()
    path.write_text(json.dumps(stated, indent=2) + "\n")


def make_old_base(folder: Path, case: Case) -> Path:
    """A random model as transformers 4 wrote it."""
    config = CONFIG_MAPPING[case.kind](**case.sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).to(case.dtype).save_pretrained(folder)
    save_as_version_4(make_tokenizer(), folder, case.tokenizer)
    stated = json.loads((folder / "config.json").read_text())
    for key in ("rope_parameters", "dtype"):
        stated.pop(key, None)
    old = {"torch_dtype": str(case.dtype).removeprefix("torch."), "transformers_version": "4.43.0"}
    (folder / "config.json").write_text(json.dumps({**stated, **case.keys, **old}, indent=2) + "\n")
    return folder


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By case, the folder with its base, its experts and an exported child."""
    folders = {}
    for name, case in CASES.items():
        folder = tmp_path_factory.mktemp("case")
        base = make_old_base(folder / "base", case)
        experts = {each: make_expert(base, folder / each, seed) for seed, each in ((1, "first"), (2, "second"))}
        if case.change is not None:
            case.change(base, experts["first"])
        models = {"chat_template": case.template, "trust_remote_code": True}
        family = open_recipe_family(make_recipe(folder, base, experts, models=models))
        child = Genome(np.array([[0.6], [0.7]]), (), np.zeros((0, 1)))
        write_candidate(child, Materialiser(family, Groups(family.weights, "one"), {}), folder / "child")
        folders[name] = folder
    return folders


@pytest.fixture(scope="module")
def by_version_4(exports: Mapping[str, Path]) -> dict[str, Any]:
    """What transformers 4 reads from all bases and children, by their folders."""
    script = Path(__file__).with_name("read_transformers4.py")
    folders = [str(folder / each) for folder in exports.values() for each in ("base", "child")]
    environment = {**os.environ, "PYTHONPATH": os.environ["CYCLEQD_TRANSFORMERS4"]}
    modules = str(next(iter(exports.values())) / "modules")
    done = subprocess.run(
        [sys.executable, str(script), *folders],
        capture_output=True,
        text=True,
        env={**environment, "HF_MODULES_CACHE": modules},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["version"].startswith("4.57.")
    return dict(found["read"])


@pytest.mark.parametrize("name", CASES)
def test_an_export_loads_and_answers_as_in_transformers_5(
    name: str, exports: Mapping[str, Path], by_version_4: Mapping[str, Any]
) -> None:
    base, child = (by_version_4[str(exports[name] / each)] for each in ("base", "child"))
    assert child["wrong"] == base["wrong"]
    assert child["dtype"] == base["dtype"] == str(CASES[name].dtype)
    assert (child["ids"], child["class"]) == (base["ids"], base["class"])
    now = read(str(exports[name] / "child"), words=False)
    assert now["wrong"] == []
    old, new = torch.tensor(child["logits"]), torch.tensor(now["logits"])
    tolerance = 1e-4 if CASES[name].dtype == torch.float32 else 0.1
    assert float((old - new).abs().max()) < tolerance * float(new.abs().max())
    assert child["ends"] == now["ends"]


def test_chosen_templates_and_end_tokens_are_read(exports: Mapping[str, Path], by_version_4: Mapping[str, Any]) -> None:
    chosen = by_version_4[str(exports["template and end token of an expert"] / "child")]
    start, end = TOKENS[-2], TOKENS[-1]
    assert chosen["chat"] == f"{start}user\nhi{end}\n{start}assistant\nyes?{end}\n"
    assert chosen["ends"] == [2, VOCABULARY - 1]
    assert by_version_4[str(exports["named templates of an expert"] / "child")]["chat"] == "hi!"
