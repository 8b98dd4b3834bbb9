"""An exported child is a complete checkpoint for transformers, or does not exist."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cycleqd_merge.errors import UserError
from cycleqd_merge.merging import candidates
from cycleqd_merge.merging.candidates import write_checkpoint
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.outputs.checkpoint import write_model
from tests.merging.conftest import Trio, long_lineage
from tests.models import CHAT_TEMPLATE, make_recipe, make_tokenizer, open_recipe_family

RECORD: dict[str, Any] = {"name": "best-mean", "genome": {"format": 1}}
CONFIGURATION = "merge_method: cycleqd\n"
Tensors = dict[str, torch.Tensor]


def accept(folder: Path) -> None:
    """A check that finds nothing wrong."""


@pytest.fixture
def child(trio: Trio) -> Tensors:
    return dict(trio.materialiser().tensors(long_lineage(3)))


@pytest.fixture
def llama_child(llama: Trio) -> Tensors:
    return dict(llama.materialiser().tensors(long_lineage(3)))


def write(
    tensors: Iterable[tuple[str, torch.Tensor]], family: ModelFamily, out: Path, check: Callable[[Path], None] = accept
) -> Path:
    write_model(lambda folder: write_checkpoint(tensors, family, folder), out, RECORD, CONFIGURATION, check)
    return out


def load(folder: Path) -> tuple[Any, set[str]]:
    """The model, and the names of tensors that do not fit its architecture."""
    auto: Any = AutoModelForCausalLM
    model, report = auto.from_pretrained(folder, dtype="auto", output_loading_info=True)
    return model, {*report["missing_keys"], *report["mismatched_keys"], *report["unexpected_keys"]}


def test_checkpoint_loads_as_the_child(trio: Trio, child: Tensors, tmp_path: Path) -> None:
    model, unfit = load(write(child.items(), trio.family, tmp_path / "out"))
    assert unfit == set()
    assert model.dtype == torch.bfloat16
    state = model.state_dict()
    for name, tensor in child.items():
        assert torch.equal(state[name], tensor), name


def test_tied_embedding_is_stored_once_and_tied_again(trio: Trio, child: Tensors, tmp_path: Path) -> None:
    out = write(child.items(), trio.family, tmp_path / "out")
    model, _ = load(out)
    tied = trio.family.base.config.tie_word_embeddings
    assert ("lm_head.weight" in load_file(out / "model.safetensors")) != tied
    assert (model.get_input_embeddings().weight.data_ptr() == model.lm_head.weight.data_ptr()) == tied


def test_tokenizer_and_configuration_come_along(trio: Trio, child: Tensors, tmp_path: Path) -> None:
    out = write(child.items(), trio.family, tmp_path / "out")
    ours, theirs = AutoTokenizer.from_pretrained(trio.base), AutoTokenizer.from_pretrained(out)
    text = "Merge 3 models, please.\n"
    assert theirs(text).input_ids == ours(text).input_ids
    assert theirs.decode(theirs(text).input_ids) == text
    assert theirs.chat_template == CHAT_TEMPLATE
    assert theirs.eos_token == "</s>"
    generation = "generation_config.json"
    assert json.loads((out / generation).read_text()) == json.loads((trio.base / generation).read_text())
    assert json.loads((out / "config.json").read_text()) == json.loads((trio.base / "config.json").read_text())


def test_exported_child_answers(trio: Trio, child: Tensors, tmp_path: Path) -> None:
    out = write(child.items(), trio.family, tmp_path / "out")
    model, _ = load(out)
    tokenizer: Any = AutoTokenizer.from_pretrained(out)
    messages = [{"role": "user", "content": "hi"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert answer.shape[1] > prompt["input_ids"].shape[1]


def test_chosen_chat_template_is_exported(llama: Trio, llama_child: Tensors, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages[0].content }}!")
    experts = dict(zip(("first", "second"), llama.experts[:2], strict=True))
    recipe = make_recipe(tmp_path, llama.base, experts, models={"chat_template": str(template)})
    out = write(llama_child.items(), open_recipe_family(recipe), tmp_path / "out")
    messages = [{"role": "user", "content": "hi"}]
    assert AutoTokenizer.from_pretrained(out).apply_chat_template(messages, tokenize=False) == "hi!"
    assert make_tokenizer().apply_chat_template(messages, tokenize=False) != "hi!"


def test_record_and_configuration_are_stored_with_the_weights(
    llama: Trio, llama_child: Tensors, tmp_path: Path
) -> None:
    out = write(llama_child.items(), llama.family, tmp_path / "out")
    assert json.loads((out / "genome.json").read_text()) == RECORD
    assert (out / "mergekit_config.yml").read_text() == CONFIGURATION


def test_large_checkpoint_is_sharded(
    trio: Trio, child: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "SHARD_SIZE", 10_000)
    out = write(child.items(), trio.family, tmp_path / "out")
    shards = sorted(out.glob("*.safetensors"))
    assert len(shards) >= 3
    index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    assert {name: path.name for path in shards for name in load_file(path)} == index
    assert index.keys() == child.keys()
    model, unfit = load(out)
    assert unfit == set()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in child.items())


def test_check_sees_the_whole_checkpoint_before_it_has_its_name(
    llama: Trio, llama_child: Tensors, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    seen = []

    def check(folder: Path) -> None:
        seen.append(folder)
        assert not out.exists()
        assert load(folder)[1] == set()
        assert (folder / "tokenizer.json").is_file()

    write(llama_child.items(), llama.family, out, check)
    assert len(seen) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_failed_check_leaves_nothing_behind(llama: Trio, llama_child: Tensors, tmp_path: Path) -> None:
    def refuse(folder: Path) -> None:
        raise RuntimeError("logits differ")

    with pytest.raises(RuntimeError, match="logits differ"):
        write(llama_child.items(), llama.family, tmp_path / "out", refuse)
    assert list(tmp_path.iterdir()) == []


def test_failure_amid_the_tensors_leaves_nothing_behind(llama: Trio, llama_child: Tensors, tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        yield from list(llama_child.items())[:5]
        raise UserError("the disk with the experts is gone")

    with pytest.raises(UserError, match="the disk with the experts is gone"):
        write(broken(), llama.family, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_exists_is_never_overwritten(llama: Trio, llama_child: Tensors, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    file = out / "precious.txt" if kind == "folder" else out
    file.parent.mkdir(exist_ok=True)
    file.write_text("precious")
    with pytest.raises(UserError, match="out: already exists; choose a different folder"):
        write(llama_child.items(), llama.family, out)
    assert file.read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_empty_folder_is_filled(llama: Trio, llama_child: Tensors, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert (write(llama_child.items(), llama.family, tmp_path / "out") / "model.safetensors").is_file()


def test_parent_folders_are_made(llama: Trio, llama_child: Tensors, tmp_path: Path) -> None:
    assert (
        write(llama_child.items(), llama.family, tmp_path / "some" / "where" / "out") / "model.safetensors"
    ).is_file()


def test_place_that_cannot_be_written_is_refused(llama: Trio, llama_child: Tensors, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/out: cannot be written"):
        write(llama_child.items(), llama.family, tmp_path / "file" / "out")


def test_exported_folder_is_readable_by_others(llama: Trio, llama_child: Tensors, tmp_path: Path) -> None:
    out = write(llama_child.items(), llama.family, tmp_path / "out")
    assert out.stat().st_mode & 0o777 == 0o755
