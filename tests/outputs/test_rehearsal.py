"""What would make an export fail is reported before a search, by `plan` and by `evolve`, in one line each."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import InfrastructureError, UserError
from cycleqd_merge.evaluation.opened_recipe import OpenedRecipe
from cycleqd_merge.evolution.genome import level_genome
from cycleqd_merge.files import write_failure
from cycleqd_merge.journal.log import read_events
from cycleqd_merge.merging import mergekit_config, model_files
from cycleqd_merge.outputs import rehearsal
from cycleqd_merge.outputs.adapter import require_adapter_form, write_adapter
from cycleqd_merge.outputs.export import export, export_adapter
from cycleqd_merge.outputs.rehearsal import rehearse_export
from cycleqd_merge.preflight import disk, plan_result
from cycleqd_merge.preflight.plan import plan
from cycleqd_merge.report.figures import archives_figure, save
from cycleqd_merge.report.page import write_page
from cycleqd_merge.run.state import Run, open_run
from cycleqd_merge.session.evolve import evolve
from tests.architectures import make_architecture
from tests.failing_disk import files_of_at_most
from tests.grown_models import IM_END, IM_START, TOOL, Grown, make_grown
from tests.merging.conftest import Trio
from tests.models import make_adapter, make_base, make_expert, make_recipe, on_base

Change = Callable[[Path, pytest.MonkeyPatch], None]
"""Makes exports of children of the base in a folder fail, as models or libraries do."""

SMALL = {"evolution": {"generations": 1}}


def recipe_over(folder: Path, llama: Trio, base: Path | None = None, **settings: Any) -> Recipe:
    experts = dict(zip(("first", "second"), llama.experts[:2], strict=True))
    return make_recipe(folder, base or llama.base, experts, **{**SMALL, **settings})


def refused(recipe: Recipe) -> str:
    """The one error that `plan` reports and `evolve` raises; nothing was evaluated."""
    (error,) = plan(recipe, measure=False).errors
    with pytest.raises(UserError) as raised:
        evolve(recipe)
    assert str(raised.value) == error
    assert "\n" not in error
    journal = Path(recipe.output) / "journal.jsonl"
    assert not journal.is_file() or not read_events(journal.parent)
    return error


def write(name: str, text: str) -> Change:
    return lambda base, patch: (base / name).write_text(text) and None


def lose_a_token(base: Path, patch: pytest.MonkeyPatch) -> None:
    """The exported tokenizer is not the one that scored, as a file that is not copied would make it."""
    whole = model_files.tokenizer_files

    def without(family: Any) -> Any:
        files = whole(family)
        tokenizer = json.loads((base / "tokenizer.json").read_text())
        tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 900, "content": "<lost>"})
        return {**files, "tokenizer.json": json.dumps(tokenizer).encode()}

    patch.setattr(model_files, "tokenizer_files", without)


def lose_the_template(base: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(model_files, "_TOKENIZER_FILES", ("tokenizer.json", "tokenizer_config.json"))


def shrink_the_module(base: Path, patch: pytest.MonkeyPatch) -> None:
    """The exported configuration describes fewer rows than the tensors have."""
    whole = model_files.child_files

    def smaller(family: Any) -> Any:
        files = whole(family)
        return {**files, "config.json": model_files.edited(files["config.json"], {"vocab_size": 7})}

    patch.setattr(rehearsal, "child_files", smaller)


def write_wrong_references(base: Path, patch: pytest.MonkeyPatch) -> None:
    """As mergekit reads paths with `+` back that were written as plain text."""
    patch.setattr(mergekit_config, "reference_value", lambda reference: f"{reference}+x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (write("generation_config.json", '{"max_new_tokens": -5}'), r"^export: .*`max_new_tokens` must be greater"),
        (write("preprocessor_config.json", "{oops"), r"preprocessor_config\.json: not valid JSON: "),
        (lose_a_token, r"^export: its tokenizer would have different tokens"),
        (lose_the_template, r"^export: its chat template would differ"),
        (shrink_the_module, r"^base: tensor .* makes .* of shape .*config\.json requires"),
        (write_wrong_references, r"^export: mergekit_config\.yml would name the model "),
    ],
)
def test_what_would_fail_in_an_export_is_refused_before_the_search(
    change: Change, message: str, llama: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Path(shutil.copytree(llama.base, tmp_path / "base"))
    recipe = recipe_over(tmp_path, llama, base)
    change(base, monkeypatch)
    assert re.search(message, refused(recipe))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"finish": {"export": ["best:cooking"]}}, "finish.export: 'best:cooking' is not a model of this run"),
        ({"finish": {"export": ["expert:third"]}}, "finish.export: 'expert:third' is not a model of this run"),
        ({"finish": {"export": ["letters:x"]}}, "finish.export: 'letters:x' is not a model of this run"),
        ({"finish": {"export": ["#3"]}}, "finish.export: '#3' is not a model of this run"),
        ({"finish": {"export": ["bset-mean"]}}, "finish.export: 'bset-mean' is not a model of this run"),
        (
            {"finish": {"export": ["aggregate"]}, "strategy": {"kind": "mergekit", "methods": ["linear"]}},
            "finish.export: aggregate: mergekit configurations cannot be aggregated",
        ),
    ],
)
def test_a_name_that_no_model_can_have_is_refused(
    settings: Mapping[str, Any], message: str, llama: Trio, tmp_path: Path
) -> None:
    assert refused(recipe_over(tmp_path, llama, **settings)).startswith(message)


def test_names_that_a_run_may_have_are_accepted(llama: Trio, tmp_path: Path) -> None:
    names = ["best", "best-mean", "best:letters", "letters:3", "letters: 3", "#2", "expert:first", "base", "mean"]
    recipe = recipe_over(tmp_path, llama, finish={"export": [*names, "aggregate"]})
    assert plan(recipe, measure=False).errors == []


def test_a_place_for_models_that_is_a_file_is_refused(llama: Trio, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "models").touch()
    error = refused(recipe_over(tmp_path, llama, finish={"export": ["mean"]}))
    assert error.startswith(f"finish.export: {tmp_path / 'run' / 'models'}: cannot be written: ")


def test_exports_count_as_disk_space_until_they_exist(
    llama: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_over(tmp_path, llama, finish={"export": ["mean", "base"]})
    size = (llama.base / "model.safetensors").stat().st_size

    def needed(recipe: Recipe) -> int:
        opened = OpenedRecipe.open(recipe)
        (use,) = (use for use in disk.disk_uses(recipe, opened.family, []) if use.purpose == "exported models")
        assert use.folder == recipe.output
        return use.needed

    assert needed(recipe) == pytest.approx(2 * size, rel=0.1)
    merges = recipe_over(tmp_path, llama, finish={"export": ["mean"]}, strategy={"kind": "mergekit"})
    assert needed(merges) == pytest.approx(2 * size, rel=0.1)  # one, in float32
    with monkeypatch.context() as full:
        full.setattr(plan_result.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1000))
        assert "exported models" in refused(recipe)
    evolve(recipe)
    assert needed(recipe) == 0


def test_a_rehearsal_is_quick_and_leaves_nothing(llama: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    opened = OpenedRecipe.open(recipe_over(tmp_path, llama))
    rehearse_export(opened.recipe, opened.family, opened.groups)
    start = time.perf_counter()
    rehearse_export(opened.recipe, opened.family, opened.groups)
    assert time.perf_counter() - start < 2
    assert not list((tmp_path / "temporary").iterdir())


@pytest.fixture(scope="module")
def run(llama: Trio, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A complete run over adapters."""
    folder = tmp_path_factory.mktemp("failing")
    adapters = {name: make_adapter(llama.base, folder / name, seed) for seed, name in enumerate(("first", "second"))}
    experts = {name: on_base(llama.base, adapter) for name, adapter in adapters.items()}
    recipe = make_recipe(folder, llama.base, experts, evolution={"generations": 1})
    evolve(recipe)
    return open_run(Path(recipe.output))


def page(run: Run, out: Path) -> None:
    write_page(run, "run", out)


def figures(run: Run, out: Path) -> None:
    save(archives_figure(run.archives, run.objectives), out.parent, out.name)


@pytest.mark.parametrize(
    ("writes", "size"),
    [
        (lambda run, out: export(run, "mean", out), 20_000),  # the weights
        (lambda run, out: export(run, "mean", out), 100),  # a small file
        (lambda run, out: export_adapter(run, "mean", out), 1000),
        (page, 1000),
        (figures, 1000),
    ],
)
def test_a_failed_write_is_reported_in_one_line_and_leaves_nothing(
    writes: Callable[[Run, Path], Any], size: int, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "out"
    with files_of_at_most(size), pytest.raises(InfrastructureError) as raised:
        writes(run, out)
    assert str(raised.value).startswith(f"{out}")
    assert ": cannot be written: File too large; " in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() or path.name.startswith(".")]
    writes(run, out)


def test_a_run_whose_exports_fail_is_complete(run: Run) -> None:
    finish = run.recipe.finish.model_copy(update={"export": ["mean"]})
    recipe = run.recipe.model_copy(update={"finish": finish})
    out = Path(recipe.output)
    with files_of_at_most(20_000), pytest.raises(InfrastructureError) as raised:
        evolve(recipe)
    model = out / "models" / "mean-gen-1"
    expected = f"the run is complete, but not everything was exported: {model}: cannot be written: File too large; "
    assert str(raised.value).startswith(expected)
    assert str(raised.value).endswith(f"; export again with: cycleqd-merge evolve {out}")
    assert not (out / "models").exists()
    evolve(recipe)
    assert (model / "model.safetensors").is_file()


@pytest.mark.parametrize("out", ["file/out", "file/deep/out"])
def test_a_folder_below_a_file_is_refused(out: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as raised:
        export(run, "mean", tmp_path / out)
    reason = f"{tmp_path / 'file'} is not a folder; choose a different folder"
    assert str(raised.value) == f"{tmp_path / out}: cannot be written: {reason}"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_is_not_writable_is_refused(
    number: int, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.mkdtemp", refuse)  # nothing stops root
    with pytest.raises(UserError) as raised:
        export(run, "mean", tmp_path / "deep" / "out")
    reason = f"{os.strerror(number)}; choose a different folder"
    assert str(raised.value) == f"{tmp_path / 'deep' / 'out'}: cannot be written: {reason}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device; free some space"),
        (OSError(122, "Disk quota exceeded"), "Disk quota exceeded; free some space or raise the quota"),
        (OSError(30, "Read-only file system"), "Read-only file system; choose a different folder"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "No space left on device; free some space"),
        (OSError(2, "No such file or directory"), None),
        (ValueError("28"), None),
    ],
)
def test_failed_writes_are_told_from_other_errors(error: Exception, reason: str | None) -> None:
    assert write_failure(error) == reason
    wrapped = ValueError("while writing")
    wrapped.__context__ = error
    assert write_failure(wrapped) == reason


@pytest.mark.parametrize(
    ("options", "possible"),
    [
        ({}, True),
        ({"bias": "all"}, True),  # the base has no biases
        ({"use_dora": True}, False),
        ({"modules_to_save": ["lm_head"]}, False),
        ({"target_modules": ["q_proj", "embed_tokens"]}, False),
        ({"target_modules": ["q_proj", "lm_head"]}, True),
    ],
)
def test_whether_children_can_be_adapters_is_known_before(
    options: Mapping[str, Any], possible: bool, llama: Trio, tmp_path: Path
) -> None:
    """It is what writing one shows."""
    adapters = {
        "first": make_adapter(llama.base, tmp_path / "first", 1),
        "second": make_adapter(llama.base, tmp_path / "second", 2, **options),
    }
    experts = {name: on_base(llama.base, adapter) for name, adapter in adapters.items()}
    opened = OpenedRecipe.open(make_recipe(tmp_path, llama.base, experts))
    genome = level_genome(0.5, 2, len(opened.groups))

    def accepts(step: Callable[[], Any]) -> bool:
        try:
            step()
        except UserError:
            return False
        return True

    def writing() -> None:
        write_adapter(genome, opened.materialiser([]), tmp_path / "out", {}, lambda folder: None)

    assert accepts(lambda: require_adapter_form(opened.family)) == accepts(writing) == possible


def test_static_merges_of_an_architecture_that_mergekit_does_not_plan_are_refused_before_the_search(
    tmp_path: Path,
) -> None:
    def recipe_of(name: str) -> Recipe:
        base = make_architecture(name, tmp_path / name / "base")
        experts = {str(seed): make_expert(base, tmp_path / name / f"expert-{seed}", seed) for seed in (1, 2)}
        return make_recipe(tmp_path / name, base, experts, strategy={"kind": "mergekit"}, **SMALL)

    assert plan(recipe_of("mixtral"), measure=False).errors == []
    error = refused(recipe_of("deepseek_v3"))
    assert error.startswith("strategy `mergekit`: mergekit cannot merge this architecture: ")


def grown_experts(base: Path, folder: Path) -> list[Path]:
    grown = (Grown({100: IM_START, 101: IM_END}, 102), Grown({100: TOOL}, 101))
    return [make_grown(folder / str(seed), each, seed, base) for seed, each in enumerate(grown)]


def spaced_experts(base: Path, folder: Path) -> list[Path]:
    return [make_expert(base, folder / name, seed) for seed, name in enumerate(("with space", "it's a+b@c #1"))]


def plain_experts(base: Path, folder: Path) -> list[Path]:
    return [make_expert(base, folder / str(seed), seed) for seed in (1, 2)]


@pytest.mark.parametrize(
    ("architecture", "experts", "settings"),
    [
        ("llama", grown_experts, {"models": {"vocabulary": "union"}}),
        ("llama", spaced_experts, {}),
        ("llama", plain_experts, {"evolution": {"generations": 1, "groups": {"layers": 1, "modules": True}}}),
        ("mixtral", plain_experts, {}),
        ("gpt_neox", plain_experts, {}),
    ],
)
def test_what_passes_the_rehearsal_is_exported(
    architecture: str, experts: Callable[[Path, Path], list[Path]], settings: Mapping[str, Any], tmp_path: Path
) -> None:
    base = make_base(tmp_path / "base") if architecture == "llama" else make_architecture(architecture, tmp_path / "b")
    named = dict(zip(("first", "second"), experts(base, tmp_path), strict=True))
    recipe = make_recipe(tmp_path, base, named, **{**SMALL, "finish": {"export": ["mean", "best-mean"]}, **settings})
    assert plan(recipe, measure=False).errors == []
    evolve(recipe)
    assert len(list((tmp_path / "run" / "models").iterdir())) == 2
