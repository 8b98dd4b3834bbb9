"""A child's files other than its weights are the base's, byte for byte; only what the recipe chose is changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoTokenizer, GenerationConfig

from cycleqd_merge.config.recipe import ModelsConfig
from cycleqd_merge.errors import ModelError
from cycleqd_merge.evolution.candidate import Candidate, MergekitConfiguration
from cycleqd_merge.merging.candidates import write_candidate
from cycleqd_merge.merging.download import needed_files
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.json_files import edited
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.model_files import adapter_files, child_files
from tests.evaluation.conftest import genome_of
from tests.models import edit_json, make_base, make_expert, make_recipe, make_tokenizer, open_recipe_family

TURNS = [{"role": "user", "content": "hi"}]
WANTED = {
    "special_tokens_map.json": b'{"eos_token": "</s>"}',
    "added_tokens.json": b"{}",
    "vocab.json": b"{}",
    "merges.txt": b"#version: 0.2\n",
    "tokenizer.model": b"\x00\x01",
    "tokenizer.model.v3": b"\x00\x02",
    "spiece.model": b"\x00\x03",
    "own.tiktoken": b"IQ== 0\n",
    "preprocessor_config.json": b'{"size": 3}',
    "processor_config.json": b"{ }",
    "chat_template.json": b'{"chat_template": "x"}',
    "additional_chat_templates/tool_use.jinja": b"tools",
}
UNWANTED = (
    "README.md",
    "training_args.bin",
    "optimizer.pt",
    "trainer_state.json",
    "all_results.json",
    "model.gguf",
    "model.safetensors.index.json.bak",
    "adapter_config.json",
    "genome.json",
    "mergekit_config.yml",
    "train.py",
    "original/params.json",
)
TOKENIZER_FILES = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
OWN_FILES = {"config.json", "generation_config.json", *TOKENIZER_FILES}


def family_of(folder: Path, **models: Any) -> ModelFamily:
    """A family of the models in `folder`, which are made unless they exist."""
    base = folder / "base"
    if not base.exists():
        make_base(base)
    for seed, name in ((1, "first"), (2, "second")):
        if not (folder / name).exists():
            make_expert(base, folder / name, seed)
    experts = {name: folder / name for name in ("first", "second")}
    return open_recipe_family(make_recipe(folder, base, experts, models=models))


def child_of(family: ModelFamily, folder: Path, candidate: Candidate | None = None) -> Path:
    write_candidate(candidate or genome_of(0.5, 0.5), Materialiser(family, Groups(family.weights, "one"), {}), folder)
    return folder


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def put(folder: Path, files: dict[str, bytes]) -> None:
    for name, contents in files.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(contents)


@pytest.mark.parametrize("kind", ["genome", "mergekit configuration"])
def test_the_bases_files_are_copied_and_nothing_else(tmp_path: Path, kind: str) -> None:
    base = make_base(tmp_path / "base")
    configuration = (base / "config.json").read_text().replace("{", '{\r\n\t"odd key":   1e-6,', 1)
    put(base, {**WANTED, "config.json": configuration.encode()})
    put(base, dict.fromkeys(UNWANTED, b"{}"))
    family = family_of(tmp_path)
    out = child_of(family, tmp_path / "out", None if kind == "genome" else linear(family))
    assert files_in(out) == {*WANTED, *OWN_FILES, "model.safetensors"} | (
        files_in(out) & {"model.safetensors.index.json"}
    )
    for name in files_in(out):
        if not name.startswith("model.safetensors"):
            assert (out / name).read_bytes() == (base / name).read_bytes(), name


def linear(family: ModelFamily, **keys: str) -> MergekitConfiguration:
    models = [{"model": str(expert.reference), "parameters": {"weight": 0.5}} for expert in family.experts]
    configuration = {"merge_method": "task_arithmetic", "models": models, "base_model": str(family.base.reference)}
    return MergekitConfiguration(yaml.safe_dump({**configuration, "dtype": "bfloat16", **keys}), 0)


def test_a_mergekit_configuration_with_its_own_dtype(tmp_path: Path) -> None:
    family = family_of(tmp_path)
    out = child_of(family, tmp_path / "out", linear(family, dtype="float32"))
    stated = json.loads((family.base.path / "config.json").read_text())
    assert stated["dtype"] == "bfloat16"
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.float32}
    assert json.loads((out / "config.json").read_text()) == {**stated, "dtype": "float32"}


NAMED = [{"name": "default", "template": "named {{ messages[0].content }}"}, {"name": "rag", "template": "rag"}]


@pytest.mark.parametrize("base_form", ["file", "key", "folder", "none"])
@pytest.mark.parametrize("expert_form", ["file", "key", "named key", "folder", "none"])
def test_a_chosen_chat_template_replaces_the_bases(tmp_path: Path, base_form: str, expert_form: str) -> None:
    base = make_base(tmp_path / "base")
    make_expert(base, tmp_path / "first", 1)
    set_template(base, base_form, "base {{ messages[0].content }}")
    set_template(tmp_path / "first", expert_form, "expert {{ messages[0].content }}")
    out = child_of(family_of(tmp_path, chat_template="first"), tmp_path / "out")
    ours, theirs = (AutoTokenizer.from_pretrained(folder).chat_template for folder in (out, tmp_path / "first"))
    assert ours == theirs
    stated, kept = (json.loads((folder / "tokenizer_config.json").read_text()) for folder in (out, base))
    assert {key: value for key, value in stated.items() if key != "chat_template"} == {
        key: value for key, value in kept.items() if key != "chat_template"
    }
    assert [key for key in stated if key in kept] == [key for key in kept if key in stated]
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def set_template(folder: Path, form: str, template: str) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    if form == "key":
        edit_json(folder / "tokenizer_config.json", chat_template=template)
    elif form == "named key":
        edit_json(folder / "tokenizer_config.json", chat_template=NAMED)
    elif form != "none":
        put(folder, {"chat_template.jinja": template.encode()})
    if form == "folder":
        put(folder, {"additional_chat_templates/rag.jinja": b"rag"})


def test_a_chosen_template_that_the_base_has_already_changes_nothing(tmp_path: Path) -> None:
    files = child_files(family_of(tmp_path, chat_template="first"))
    assert files.keys() == OWN_FILES
    assert all(isinstance(source, Path) for source in files.values())


def test_end_tokens_change_one_key(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    settings = (
        b'{\n    "do_sample": true,\n    "eos_token_id": 2,\n    "_from_model_config": true,\n    "top_p": 0.90\n}\n'
    )
    put(base, {"generation_config.json": settings})
    files = child_files(family_of(tmp_path, end_tokens=["</s>", "<unk>"]))
    changed = {name: source for name, source in files.items() if isinstance(source, bytes)}
    expected = b'{\n    "do_sample": true,\n    "eos_token_id": [\n        2,\n        3\n    ],\n    "top_p": 0.9\n}\n'
    assert changed == {"generation_config.json": expected}


def test_a_base_without_a_generation_configuration_gets_one_only_for_other_end_tokens(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    (base / "generation_config.json").unlink()
    edit_json(base / "config.json", temperature=0.5)  # as older versions stored it
    assert "generation_config.json" not in child_files(family_of(tmp_path))
    out = child_of(family_of(tmp_path, end_tokens=[3]), tmp_path / "out")
    found = GenerationConfig.from_pretrained(out)
    assert (found.eos_token_id, found.pad_token_id, found.temperature) == (3, 0, 0.5)


def test_an_adapter_gets_the_tokenizer_and_other_end_tokens(tmp_path: Path) -> None:
    assert adapter_files(family_of(tmp_path)).keys() == TOKENIZER_FILES
    files = adapter_files(family_of(tmp_path, end_tokens=[3]))
    assert files.keys() == {*TOKENIZER_FILES, "generation_config.json"}


AUTO_MAPS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "modules and what they import": (
        {"AutoConfig": "configuration_mine.MineConfig", "AutoModelForCausalLM": "modeling_mine.Mine"},
        {"configuration_mine.py", "modeling_mine.py", "helper_mine.py", "deep_mine.py"},
    ),
    "a tokenizer, slow and fast": ({"AutoTokenizer": ["tokenization_mine.Mine", None]}, {"tokenization_mine.py"}),
    "another repository's code": ({"AutoModel": "other/repo--modeling_mine.Mine"}, set()),
    "a module that is missing": ({"AutoModel": "modeling_none.Mine"}, set()),
}
MODULES = {
    "configuration_mine.py": b"",
    "modeling_mine.py": b"from .configuration_mine import MineConfig\nif True:\n    from .helper_mine import x\n",
    "helper_mine.py": b"from .deep_mine import y\n",
    "deep_mine.py": b"",
    "tokenization_mine.py": b"",
    "unused.py": b"",
}


@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("name", AUTO_MAPS)
def test_custom_code_is_copied(tmp_path: Path, place: str, name: str) -> None:
    mapping, modules = AUTO_MAPS[name]
    base = make_base(tmp_path / "base")
    put(base, MODULES)
    put(base, {"custom_generate/generate.py": b"", "custom_generate/requirements.txt": b""})
    edit_json(base / place, auto_map=mapping)
    files = child_files(family_of(tmp_path))
    generate = {"custom_generate/generate.py", "custom_generate/requirements.txt"}
    assert files.keys() == {*OWN_FILES, *modules, *generate}
    assert all(isinstance(source, Path) for source in files.values())


def test_a_child_with_custom_code_loads_on_its_own(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    put(
        base,
        {
            "configuration_mine.py": b"from transformers import LlamaConfig\nclass MineConfig(LlamaConfig):\n"
            b"    model_type = 'mine'\n",
            "modeling_mine.py": b"from transformers import LlamaForCausalLM\n"
            b"from .configuration_mine import MineConfig\n"
            b"class Mine(LlamaForCausalLM):\n    config_class = MineConfig\n",
            "tokenization_mine.py": b"from transformers import PreTrainedTokenizerFast\n"
            b"class MineTokenizer(PreTrainedTokenizerFast):\n    pass\n",
        },
    )
    names = {"AutoConfig": "configuration_mine.MineConfig", "AutoModelForCausalLM": "modeling_mine.Mine"}
    edit_json(base / "config.json", model_type="mine", architectures=["Mine"], auto_map=names)
    tokenizers = {"AutoTokenizer": [None, "tokenization_mine.MineTokenizer"]}
    edit_json(base / "tokenizer_config.json", tokenizer_class="MineTokenizer", auto_map=tokenizers)
    out = child_of(family_of(tmp_path, trust_remote_code=True), tmp_path / "out")
    shutil.rmtree(base)
    load = (
        "import sys, transformers as t\n"
        "model = t.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "tokenizer = t.AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "print(type(model).__name__, type(tokenizer).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", load, str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
    )
    assert done.stdout.split() == ["Mine", "MineTokenizer"], done.stderr[-2000:]


@pytest.mark.parametrize("part", ["config.json", "tokenizer_config.json"])
def test_custom_code_that_is_not_allowed_gets_one_line(tmp_path: Path, part: str) -> None:
    base = make_base(tmp_path / "base")
    family = None
    if part == "config.json":
        names = {"AutoConfig": "configuration_mine.MineConfig"}
        edit_json(base / part, model_type="mine", auto_map=names)
    else:
        family = family_of(tmp_path)
        edit_json(
            base / part, tokenizer_class="MineTokenizer", auto_map={"AutoTokenizer": [None, "tokenization_mine.Mine"]}
        )
    with pytest.raises(ModelError) as refused:
        child_files(family or family_of(tmp_path))
    assert str(refused.value).startswith(("model ", str(base)))
    assert str(refused.value).endswith("allow it with `models.trust_remote_code: true`")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("trust", [False, True])
def test_the_files_are_downloaded(trust: bool) -> None:
    wanted = [*WANTED, "modeling_mine.py", "tokenizer.json", "custom_generate/generate.py"]
    if not trust:
        wanted.remove("custom_generate/generate.py")
    names = ["model.safetensors", *wanted, "README.md", "original/params.json", "x.gguf"]
    models = ModelsConfig(trust_remote_code=trust)
    assert sorted(needed_files(names, models, "model x", adapter=False)) == sorted(["model.safetensors", *wanted])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1, "b": 2}', '{"a": 3, "b": 2}'),
        ('{\n  "b": "é",\n  "a": [1]\n}', '{\n  "b": "é",\n  "a": 3\n}'),
        ('{\n\t"b": "\\u00e9",\n\t"a": 1\n}\n', '{\n\t"b": "\\u00e9",\n\t"a": 3\n}\n'),
        ('{\n "b": 1e-05\n}', '{\n "b": 1e-05,\n "a": 3\n}'),
    ],
)
def test_an_edit_keeps_the_rest_of_a_file(text: str, expected: str) -> None:
    assert edited(text.encode(), {"a": 3}).decode() == expected


def test_a_tokenizer_without_a_configuration(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    make_expert(base, tmp_path / "first", 1)
    edit_json(base / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    make_tokenizer("expert {{ messages[0].content }}").save_pretrained(tmp_path / "first")
    family = family_of(tmp_path, chat_template="first")
    (base / "tokenizer_config.json").unlink()
    (base / "chat_template.jinja").unlink()
    files = child_files(family)
    assert files["chat_template.jinja"] == b"expert {{ messages[0].content }}"
    assert "tokenizer_config.json" not in files
