"""The plan of a run: every error at once, each with its message; notices; measurements and predictions."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import UserError
from cycleqd_merge.evaluation.opened_recipe import OpenedRecipe
from cycleqd_merge.fitting.training import Fitting, Progress
from cycleqd_merge.journal.log import Journal
from cycleqd_merge.merging.bases import missing_bases, prepare_bases
from cycleqd_merge.merging.sizes import basis_bytes
from cycleqd_merge.preflight import estimate, plan_result
from cycleqd_merge.preflight import plan as planning
from cycleqd_merge.preflight.plan import plan
from cycleqd_merge.preflight.plan_result import Plan
from cycleqd_merge.run.opening import identify
from cycleqd_merge.session.evolve import evolve
from tests.models import (
    make_adapter,
    make_base,
    make_expert,
    make_recipe,
    make_task,
    make_tokenizer,
    on_base,
    read_tensors,
    write_tensors,
)

Row = Mapping[str, Any]


class Family(NamedTuple):
    """A base, two full experts and an adapter of rank 4, on disk. Tests must not change them."""

    base: Path
    first: Path
    second: Path
    adapter: Path

    @property
    def experts(self) -> dict[str, Path | str]:
        return {"first": self.first, "second": self.second}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp("family")
    base = make_base(folder / "base")
    experts = [make_expert(base, folder / name, seed) for seed, name in ((1, "first"), (2, "second"))]
    return Family(base, *experts, make_adapter(base, folder / "adapter", seed=3))


def rows_of(name: str, count: int = 25, answer: str = "a") -> list[Row]:
    return [{"question": f"{name} {number}", "answer": answer} for number in range(count)]


def generate(
    folder: Path,
    name: str,
    search: list[Row] | None = None,
    heldout: list[Row] | None = None,
    expert: str | None = None,
    **definition: Any,
) -> dict[str, Any]:
    """A task that generates, as a recipe states it, with bounds that keep every run possible."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {}
    for split, rows in (("search", search or rows_of(f"s{name}")), ("heldout", heldout or rows_of(f"h{name}"))):
        path = folder / f"{name}-{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data[split] = {"path": str(path)}
    stated = {"kind": "generate", "data": data, "prompt": "{{ question }}", "scorer": {"kind": "exact"}}
    use = {"task": {**stated, "max_new_tokens": 3, **definition}, "name": name, "bounds": [0.0, 1.0]}
    return use if expert is None else {**use, "expert": expert}


def recipe_of(folder: Path, family: Family, *tasks: dict[str, Any], **settings: Any) -> Recipe:
    """Two correct tasks, and `tasks`."""
    whole = [generate(folder, "one", expert="first"), generate(folder, "two", expert="second")]
    return make_recipe(folder, family.base, settings.pop("experts", family.experts), tasks=[*whole, *tasks], **settings)


def checked(recipe: Recipe) -> Plan:
    """Without the measured evaluation."""
    return plan(recipe, measure=False)


def only(found: list[str]) -> str:
    assert len(found) == 1, found
    return found[0]


def test_a_correct_recipe_has_no_errors_and_no_notices(family: Family, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, family)
    found = checked(recipe)
    assert (found.errors, found.notices) == ([], [])
    assert found.cells == {"one": 15, "two": 15}
    assert [(task.name, task.search, task.confirm, task.heldout) for task in found.tasks] == [
        ("one", 20, 5, 25),
        ("two", 20, 5, 25),
    ]
    assert found.time is None
    assert not Path(recipe.output).exists()


def test_models_are_described_as_they_lie_on_disk(family: Family, tmp_path: Path) -> None:
    experts = {"first": family.first, "second": on_base(family.base, family.adapter)}
    found = checked(recipe_of(tmp_path, family, experts=experts))
    base, first, second = found.models
    tensors = read_tensors(family.base)
    assert (base.name, base.path, base.rank) == ("base", str(family.base), None)
    assert base.tensors == len(tensors) == sum(found.groups.values())
    assert base.parameters == sum(tensor.numel() for tensor in tensors.values())
    assert base.bytes == (family.base / "model.safetensors").stat().st_size
    assert (first.path, first.dtypes) == (str(family.first), {"BF16": len(tensors)})
    assert (second.path, second.rank, set(second.dtypes)) == (str(family.adapter), 4, {"F32"})


def test_groups_are_listed_with_their_tensors(family: Family, tmp_path: Path) -> None:
    found = checked(recipe_of(tmp_path, family, evolution={"groups": {"layers": 1}}))
    assert set(found.groups) == {"rest", "layers 0-0", "layers 1-1"}
    assert sum(found.groups.values()) == len(read_tensors(family.base))


def test_all_errors_are_reported_at_once(family: Family, tmp_path: Path) -> None:
    broken = shutil.copytree(family.first, tmp_path / "broken")
    tensors = read_tensors(broken)
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    write_tensors(broken, {**tensors, name: tensors[name][:, :-1]})
    (tmp_path / "file").write_text("")
    recipe = recipe_of(
        tmp_path,
        family,
        {"task": "nowhere.yaml", "name": "three"},
        generate(tmp_path, "four", prompt="{{ missing }}"),
        generate(tmp_path, "five", [*rows_of("long", 25), {"question": "x" * 300, "answer": "a"}]),
        experts={"first": broken, "second": tmp_path / "gone"},
        evolution={"bins": 40, "archive": {"kind": "grid"}},
        output=str(tmp_path / "file" / "run"),
    )
    errors = "\n".join(checked(recipe).errors)
    for part in (
        "evolution.bins: archive one would have 2,560,000 cells, the limit is 1,000,000",
        f"task '{Path('nowhere.yaml').absolute()}': no such file",
        f"task four: {tmp_path}/four-search.jsonl:1: prompt: 'missing' is undefined",
        f"model {tmp_path / 'gone'}: no such folder",
        f"expert first: tensor {name}: shape (32, 31), the base has (32, 32)",
        "task five: 1 of 51 rows do not fit the model's 256 tokens",
        "output: ",
    ):
        assert part in errors
    assert len(errors.splitlines()) == 7


def test_without_a_base_the_tasks_are_checked_all_the_same(family: Family, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, family, generate(tmp_path, "three", prompt="{{ missing }}"))
    recipe = recipe.model_copy(update={"base": str(tmp_path / "gone")})
    errors = checked(recipe).errors
    assert [error.split(":")[0] for error in errors] == ["task three", f"model {tmp_path / 'gone'}"]


def test_a_row_that_a_template_fails_on_is_named_with_their_number(family: Family, tmp_path: Path) -> None:
    odd = [{"question": "fine", "answer": "a"}, {"question": "odd"}, {"question": "odder"}]
    error = only(checked(recipe_of(tmp_path, family, generate(tmp_path, "three", odd))).errors)
    assert error == (
        f"task three: {tmp_path}/three-search.jsonl:2: answer: 'answer' is undefined; the row has the columns "
        "question; the row is {'question': 'odd'} (and 1 more)"
    )


def test_a_chat_task_needs_a_chat_template(family: Family, tmp_path: Path) -> None:
    plain = [shutil.copytree(family[place], tmp_path / name) for place, name in enumerate(("base", "first", "second"))]
    for folder in plain:
        (folder / "chat_template.jinja").unlink()
        make_tokenizer(chat_template=None).save_pretrained(folder)
    without = family._replace(base=plain[0], first=plain[1], second=plain[2])
    error = only(checked(recipe_of(tmp_path, without, generate(tmp_path, "three", chat=True))).errors)
    assert error.startswith("task three: its prompts are chat turns and the model has no chat template")
    own = generate(tmp_path, "three", chat=True, chat_template="{{ messages[0].content }}")
    assert checked(recipe_of(tmp_path, without, own)).errors == []


def test_a_chat_template_that_rejects_a_row_is_an_error(family: Family, tmp_path: Path) -> None:
    template = "{% if '7' in messages[0].content %}{{ raise_exception('no sevens') }}{% endif %}x"
    task = generate(tmp_path, "three", chat=True, chat_template=template)
    error = only(checked(recipe_of(tmp_path, family, task)).errors)
    assert error.startswith("task three: the chat template rejects these turns: no sevens; in row ")


@pytest.mark.parametrize(("length", "fits"), [(252, True), (253, False)])
def test_prompt_and_answer_must_fit_the_model(family: Family, tmp_path: Path, length: int, fits: bool) -> None:
    rows = [*rows_of("short"), {"question": "y" * length, "answer": "a"}]
    stated = checked(recipe_of(tmp_path, family, generate(tmp_path, "three", heldout=rows, max_new_tokens=4))).errors
    if fits:
        assert stated == []
    else:
        assert "1 of 51 rows do not fit the model's 256 tokens: the longest, row " in only(stated)
        assert ", has 253 prompt tokens and up to 4 answer tokens; " in only(stated)


def test_the_tokenizers_limit_counts_too(family: Family, tmp_path: Path) -> None:
    base = shutil.copytree(family.base, tmp_path / "base")
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 8
    tokenizer.save_pretrained(base)
    errors = checked(recipe_of(tmp_path, family._replace(base=base))).errors
    assert [error.split(":")[0] for error in errors] == ["task one", "task two"]
    assert all("do not fit the model's 8 tokens" in error for error in errors)


def test_choices_are_counted_instead_of_new_tokens(family: Family, tmp_path: Path) -> None:
    scorer = {"kind": "multiple_choice", "choices": ["a", "b" * 10]}
    rows = [{"question": "y" * 245, "answer": "a"}, *rows_of("short")]
    assert checked(recipe_of(tmp_path, family, generate(tmp_path, "three", rows, scorer=scorer))).errors == []
    rows = [{"question": "y" * 246, "answer": "a"}, *rows_of("short")]
    error = only(checked(recipe_of(tmp_path, family, generate(tmp_path, "three", rows, scorer=scorer))).errors)
    assert "has 246 prompt tokens and up to 11 answer tokens" in error


def test_rows_are_noticed(family: Family, tmp_path: Path) -> None:
    shared, twice = {"question": "same", "answer": "a"}, {"question": "twice", "answer": "b"}
    search = [shared, twice, twice, *rows_of("s", 5)]
    heldout = [{**shared, "comment": "elsewhere"}, *rows_of("h", 9, answer="a" * 5)]
    notices = checked(recipe_of(tmp_path, family, generate(tmp_path, "three", search, heldout))).notices
    for part in (
        f"task three: 1 of 8 search rows are duplicates, such as {tmp_path}/three-search.jsonl:3",
        f"task three: 1 of 10 held-out rows are also search rows, such as {tmp_path}/three-heldout.jsonl:1; ",
        "task three: 6 search rows; with fewer than 20, chance decides",
        "task three: 9 reference answers are longer than max_new_tokens, which is 3; that of row ",
    ):
        assert part in only([notice for notice in notices if part in notice])
    assert len(notices) == 4


def test_a_task_with_no_rows_to_confirm_on_is_noticed(family: Family, tmp_path: Path) -> None:
    task = generate(tmp_path, "three", rows_of("s", 2))
    notices = checked(recipe_of(tmp_path, family, task)).notices
    assert "task three: too few rows for a confirmation split: elites will not be confirmed" in notices
    notices = checked(recipe_of(tmp_path, family, task, confirm={"share": 0.0})).notices
    assert not any("set any aside" in notice for notice in notices)


def test_what_the_models_differ_in_is_noticed(family: Family, tmp_path: Path) -> None:
    wide = shutil.copytree(family.first, tmp_path / "wide")
    tensors = read_tensors(wide)
    write_tensors(wide, {name: tensor.float() for name, tensor in tensors.items()})
    found = checked(recipe_of(tmp_path, family, experts={"first": wide, "second": family.second}))
    assert found.errors == []
    assert found.notices == [f"expert first: {len(tensors)} tensors are cast from float32 to the base's bfloat16"]


def test_a_run_directory_with_a_different_run_is_an_error_and_is_not_changed(family: Family, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, family)
    with_journal = Path(recipe.output)
    journal = Journal(with_journal)
    journal.append(identify(OpenedRecipe.open(recipe), journal))
    journal.close()
    content = (with_journal / "journal.jsonl").read_bytes()
    assert checked(recipe).errors == []
    other = recipe.model_copy(update={"evolution": recipe.evolution.model_copy(update={"seed": 5})})
    error = only(checked(other).errors)
    assert error.startswith(f"{with_journal}: contains a different run; --fresh starts a new one next to it")
    assert "evolution.seed: 0 -> 5" in error
    assert (with_journal / "journal.jsonl").read_bytes() == content


def test_a_run_that_another_process_is_using_is_an_error(family: Family, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, family)
    journal = Journal(Path(recipe.output))
    try:
        assert only(checked(recipe).errors).endswith("another process is using this run; wait until it ends")
    finally:
        journal.close()


def test_a_million_cells_are_the_most(family: Family, tmp_path: Path) -> None:
    three = generate(tmp_path, "three")
    found = checked(recipe_of(tmp_path, family, three, evolution={"bins": 1000}))
    assert (found.errors, found.cells["three"]) == ([], 1_000_000)
    over = recipe_of(tmp_path, family, three, evolution={"bins": 1001})
    refusal = "evolution.bins: archive one would have 1,002,001 cells, the limit is 1,000,000"
    assert only(checked(over).errors).startswith(refusal)
    with pytest.raises(UserError, match=refusal):
        evolve(over)


def test_the_archive_of_all_tasks_counts_too(family: Family, tmp_path: Path) -> None:
    plain = {"bins": 1000, "cycling": False}
    found = checked(recipe_of(tmp_path, family, evolution=plain))
    assert (found.errors, found.cells) == ([], {"one": 1000, "two": 1000, "of all tasks": 1_000_000})
    over = recipe_of(tmp_path, family, evolution={**plain, "bins": 1001})
    refusal = "evolution.bins: archive of all tasks would have 1,002,001 cells, the limit is 1,000,000"
    assert only(checked(over).errors).startswith(refusal)
    with pytest.raises(UserError, match=refusal):
        evolve(over)


def test_a_run_refuses_what_its_plan_refuses(family: Family, tmp_path: Path) -> None:
    rows = [*rows_of("short"), {"question": "y" * 300, "answer": "a"}]
    with pytest.raises(UserError, match="do not fit the model's 256 tokens"):
        evolve(recipe_of(tmp_path, family, generate(tmp_path, "three", rows)))


@pytest.mark.parametrize("adapted", [False, True])
def test_disk_for_bases_is_what_they_take(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapted: bool
) -> None:
    monkeypatch.setenv("CYCLEQD_CACHE", str(tmp_path / "cache"))
    experts = family.experts | ({"second": on_base(family.base, family.adapter)} if adapted else {})
    recipe = recipe_of(tmp_path, family, experts=experts)
    opened = OpenedRecipe.open(recipe).family
    predicted = {use.purpose: use.needed for use in checked(recipe).disk}
    bases = prepare_bases(opened, [0, 1])
    for number, expert in enumerate(opened.experts):
        loaded = [bases[number].load(weight.name) for weight in opened.weights if weight.is_matrix]
        stored = sum(basis.vectors.nbytes + basis.values.nbytes for basis in loaded if basis is not None)
        assert predicted[f"singular bases of {expert.name}"] == stored > 0
        matrices = [weight for weight in opened.weights if weight.is_matrix]
        assert sum(basis_bytes(weight, expert) for weight in matrices) == stored
        assert missing_bases(opened, number) == []
    assert {use.needed for use in checked(recipe).disk} == {0}


def test_bases_and_the_similarity_of_experts_are_reported(family: Family, tmp_path: Path) -> None:
    experts = {**family.experts, "third": make_expert(family.base, tmp_path / "third", 7)}
    mutation = {"mutation": {"rank": 8}, "generations": 1}
    found = plan(recipe_of(tmp_path, family, experts=experts, evolution=mutation))
    assert found.errors == []
    assert [(each.name, each.loss > 0, each.skew < 1e-5) for each in found.bases] == [
        ("first", True, True),
        ("second", True, True),
    ]  # the third is the expert of no task: nothing is mutated along it
    assert found.similarity.keys() == {"first, second"}
    assert 0.9 < found.similarity["first, second"] <= 1


def test_an_expert_that_is_less_alike_than_the_others_is_noticed(family: Family, tmp_path: Path) -> None:
    tensors = read_tensors(family.base)
    for tensor in tensors.values():
        if tensor.ndim == 2:
            tensor[0] += 1.0  # one direction instead of all
    other = make_expert(family.base, tmp_path / "other", 7)
    write_tensors(other, tensors)
    experts = {**family.experts, "other": other}
    tasks = [generate(tmp_path, f"t{n}", expert=expert) for n, expert in enumerate((*experts, "first"))]
    recipe = make_recipe(tmp_path, family.base, experts, tasks=tasks, evolution={"generations": 1})
    found = plan(recipe)
    assert found.similarity["first, second"] > 0.9
    assert max(found.similarity["first, other"], found.similarity["second, other"]) < 0.5
    assert found.errors == []
    assert "expert other: similarity 0." in only([each for each in found.notices if "may not merge" in each])


def test_a_disk_that_is_too_small_is_an_error(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(plan_result.shutil, "disk_usage", lambda _: usage)
    error = only(checked(recipe_of(tmp_path, family, finish={"export": ["best-mean", "aggregate"]})).errors)
    assert "exported models require " in error
    assert "1.0 kB available on the disk of " in error


def test_too_little_memory_is_an_error_before_anything_is_loaded(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "available_memory", lambda: 10**6)
    monkeypatch.setattr(planning, "try_out", lambda *_: pytest.fail("the engine was opened"))
    error = only(plan(recipe_of(tmp_path, family)).errors)
    assert error.startswith("memory: a worker requires ")
    assert error.endswith("(host), 1.0 MB available")


def test_a_failing_evaluation_is_an_error(family: Family, tmp_path: Path) -> None:
    code = "class Odd:\n    def samples(self, split):\n        return [Sample(str(n), {}) for n in range(25)]\n"
    code += "    async def score(self, sample, model):\n        raise ValueError('odd')\n"
    (tmp_path / "odd.py").write_text(f"from cycleqd_merge.tasks.protocol import Sample\n{code}")
    task = {"task": {"kind": "python", "target": f"{tmp_path / 'odd'}.py:Odd"}, "name": "odd", "bounds": [0.0, 1.0]}
    found = plan(recipe_of(tmp_path, family, task))
    assert only(found.errors) == "measured evaluation: ValueError: odd"
    assert found.time is None


def test_one_evaluation_is_measured_as_the_run_makes_them(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "_SETTLED", 0.0)
    asked: list[tuple[str, int | None]] = []
    evaluate = estimate.Worker.evaluate

    def counted(worker: Any, genome: Any, rows: Any = "search", limit: int | None = None, record: Any = ()) -> Any:
        evaluation = evaluate(worker, genome, rows, limit)
        asked.append((rows, sum(len(result.samples) for result in evaluation.results.values())))
        assert genome.coefficients.tolist() == [[0.5], [0.5]]
        assert [mutation.expert for mutation in genome.mutations] == [0, 1]
        return evaluation

    monkeypatch.setattr(estimate.Worker, "evaluate", counted)
    found = plan(recipe_of(tmp_path, family, evolution={"generations": 7}))
    assert found.errors == []
    assert asked == [("search", 40), ("confirm", 10)]
    assert found.time is not None
    assert found.time.evaluations == 2 + 7
    assert found.time.bases == 0.0
    assert found.time.total > 9 * found.time.evaluation > 0
    assert found.time.per_hour == pytest.approx(3600 / found.time.evaluation)
    use = found.memory[0]
    assert (use.place, use.measured) == ("host", True)
    assert 0 < use.needed < use.available


def test_a_slow_first_step_of_fits_counts_once_for_each_opened_model(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models are opened: one for the first fit, and one for the two that start from it."""
    monkeypatch.setattr(estimate, "_SETTLED", 0.0)
    step = Fitting._step

    def slow(self: Fitting, progress: Progress) -> None:
        if not hasattr(self, "warm"):
            time.sleep(2)
            self.warm = True  # type: ignore[attr-defined]
        step(self, progress)

    monkeypatch.setattr(Fitting, "_step", slow)
    settings = {"steps": 200, "spread_steps": 50, "rows": 2}
    for _ in range(2):  # nothing is left of the first plan that makes the second one faster
        found = plan(recipe_of(tmp_path, family, fit=settings))
        assert found.errors == []
        assert found.time is not None
        assert found.time.fits is not None
        assert 4 < found.time.fits < 40  # 200 if a third of the two seconds counted for every step


def test_elites_that_cannot_be_confirmed_take_no_time(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "_SETTLED", 0.0)
    found = plan(recipe_of(tmp_path, family, generate(tmp_path, "three", rows_of("s", 2))), Path())
    assert found.errors == []
    assert found.time is not None
    assert (found.time.confirm, found.time.finish) == (0.0, 0.0)


def test_a_resumed_run_counts_only_the_evaluations_left(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "_SETTLED", 0.0)
    tasks = [make_task(tmp_path, "letters", "first"), make_task(tmp_path, "digits", "second", "123")]
    recipe = make_recipe(tmp_path, family.base, family.experts, tasks=tasks, evolution={"generations": 3})
    evolve(recipe)
    longer = recipe.model_copy(update={"evolution": recipe.evolution.model_copy(update={"generations": 10})})
    found = plan(longer)
    assert found.errors == []
    assert found.time is not None
    assert found.time.evaluations == 7


def test_bases_that_take_long_are_left_to_the_run(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CYCLEQD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(estimate, "_SETTLED", 0.0)
    monkeypatch.setattr(planning, "_BASES_AT_ONCE", 0.0)
    recipe = recipe_of(tmp_path, family)
    found = plan(recipe)
    assert found.time is not None
    assert found.time.bases > 0
    opened = OpenedRecipe.open(recipe).family
    matrices = [weight for weight in opened.weights if weight.is_matrix]
    shapes = {weight.shape for weight in matrices}
    assert len(missing_bases(opened, 0)) == len(matrices) - len(shapes)  # one of each shape is in the cache now


def test_mutations_along_no_direction_need_no_basis(family: Family, tmp_path: Path) -> None:
    found = checked(recipe_of(tmp_path, family, evolution={"mutation": {"kind": "gaussian", "std": 1e-4}}))
    assert [use.purpose for use in found.disk] == ["exported models"]


def test_the_plan_is_json(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_SETTLED", 0.0)
    found = plan(recipe_of(tmp_path, family))
    values = json.loads(json.dumps(found.to_json()))
    assert found.time is not None
    assert values["time"]["total"] == found.time.total
    assert values["models"][0]["name"] == "base"
    assert values["errors"] == []


def test_nan_in_an_expert_is_reported(family: Family, tmp_path: Path) -> None:
    broken = shutil.copytree(family.first, tmp_path / "broken")
    tensors = read_tensors(broken)
    name = next(iter(tensors))
    write_tensors(broken, {**tensors, name: torch.full_like(tensors[name], torch.nan)})
    errors = checked(recipe_of(tmp_path, family, experts={"first": broken, "second": family.second})).errors
    assert only(errors) == f"expert first: tensor {name} contains NaN or infinite values"
