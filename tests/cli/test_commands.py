"""The commands that show a finished run, score its models and export them."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cycleqd_merge.journal.log import JOURNAL_FILE, Event, Journal, of_kind, read_events
from tests.cli.conftest import CliRun, Models, cycleqd_merge
from tests.evolution.references import SlowArchive
from tests.models import read_tensors

TASKS = ["vowels", "letters"]


@pytest.fixture(scope="module")
def finished(finished: CliRun, tmp_path_factory: pytest.TempPathFactory) -> CliRun:
    """A copy of the finished run: `evaluate` records scores in it."""
    folder = tmp_path_factory.mktemp("copied") / "run"
    shutil.copytree(finished.folder, folder, ignore=shutil.ignore_patterns("lock"))
    return replace(finished, folder=folder)


def results(run: CliRun) -> list[Event]:
    """The journaled results of a run."""
    return of_kind(read_events(run.folder), "result")


def slow_archives(run: CliRun) -> list[SlowArchive]:
    """The archives, rebuilt from the journaled scores alone."""
    ((low, high),) = {tuple(pair) for pair in of_kind(read_events(run.folder), "bounds")[0]["bounds"]}
    archives = [SlowArchive(task, ((low, high),) * 2, [10, 10]) for task in range(2)]
    for event in results(run):
        for archive in archives:
            archive.add(event["number"], tuple(event["scores"]))
    return archives


@pytest.fixture(scope="module")
def summary(finished: CliRun) -> dict[str, Any]:
    """The output of `show --json`."""
    answer = cycleqd_merge("show", finished.folder, "--json")
    assert answer.code == 0
    shown: dict[str, Any] = answer.json
    return shown


def test_show_prints_the_content_of_the_journal(finished: CliRun, summary: dict[str, Any]) -> None:
    assert (summary["tasks"], summary["objectives"], list(summary["experts"])) == (TASKS, TASKS, ["first", "second"])
    assert (summary["generation"], summary["generations"]) == (4, 4)
    assert (summary["evaluations"], summary["failed"]) == (6, 0)
    for name, slow in zip(TASKS, slow_archives(finished), strict=True):
        archive = summary["archives"][name]
        assert archive["bounds"] == {"vowels": [0.0, 1.0], "letters": [0.0, 1.0]}
        assert [(elite["evaluation"], tuple(elite["cell"])) for elite in archive["elites"]] == [
            (slow.cells[cell][0], cell) for cell in sorted(slow.cells)
        ]
        for elite in archive["elites"]:
            assert list(elite["scores"].values()) == results(finished)[elite["evaluation"]]["scores"]
        assert archive["qd_score"] == pytest.approx(sum(scores[slow.task] for _, scores in slow.cells.values()))
        assert archive["coverage"] == pytest.approx(len(slow.cells) / 10)


def test_show_prints_every_elite_with_its_scores(finished: CliRun, summary: dict[str, Any]) -> None:
    answer = cycleqd_merge("show", finished.folder, "--all")
    assert answer.code == 0
    assert answer.out.startswith("generation 4 of 4, 0 failed, best mean #")
    for task, archive in summary["archives"].items():
        for elite in archive["elites"]:
            row = next(line for line in answer.out.splitlines() if line.startswith(f"│ {task}:{elite['cell'][0]} "))
            assert f"#{elite['evaluation']} " in row
            assert all(f"{score:.3f}" in row for score in elite["scores"].values())


def test_show_prints_the_lineage_of_a_child(finished: CliRun) -> None:
    step = results(finished)[5]["step"]
    shown = cycleqd_merge("show", finished.folder, "--elite", "#5", "--json").json
    assert [entry["evaluation"] for entry in shown["lineage"]][:1] == [5]
    ancestors = {entry["evaluation"]: entry for entry in shown["lineage"]}
    assert ancestors[5]["step"] == step
    assert set(step["parents"]) <= set(ancestors)
    for number, entry in ancestors.items():
        assert entry["scores"] == results(finished)[number]["scores"]
    assert len(shown["genome"]["mutations"]) >= 1
    answer = cycleqd_merge("show", finished.folder, "--elite", "#5")
    assert answer.code == 0
    assert all(f"#{number} " in answer.out for number in ancestors)


def scores_of(answer: Any) -> dict[str, list[float]]:
    """Scores by model, from the output of `evaluate --json`."""
    return {model: [result["score"] for result in by_task.values()] for model, by_task in answer.json.items()}


def test_evaluate_on_search_rows_gives_the_journaled_scores(finished: CliRun, models: Models) -> None:
    numbers = [f"#{event['number']}" for event in results(finished)]
    names = [*numbers, "expert:first", "base", f"model:{models.second}", f"model:{models.base}"]
    found = scores_of(cycleqd_merge("evaluate", finished.folder, *names, "--split", "search", "--json"))
    assert list(found) == names
    assert [found[name] for name in numbers] == [event["scores"] for event in results(finished)]
    assert found["expert:first"] == found["#0"]
    assert found[f"model:{models.second}"] == found["#1"]
    assert found[f"model:{models.base}"] == found["base"]


def test_evaluate_scores_the_usual_models_on_held_out_rows_by_default(finished: CliRun) -> None:
    answer = cycleqd_merge("evaluate", finished.folder, "--json")
    usual = ["base", "expert:first", "expert:second", "mean", "best-mean", "aggregate"]
    assert (answer.code, list(answer.json)) == (0, usual)
    searched = cycleqd_merge("evaluate", finished.folder, "base", "--split", "search", "--json").json
    for task in TASKS:
        samples = answer.json["base"][task]["samples"]
        assert len(samples) == 12
        assert not set(samples) & set(searched["base"][task]["samples"])
        assert answer.json["base"][task]["score"] == pytest.approx(sum(samples.values()) / 12)
    table = cycleqd_merge("evaluate", finished.folder)
    assert "Scores on the held-out split" in table.out
    for model, scores in scores_of(answer).items():
        row = next(line for line in table.out.splitlines() if line.startswith(f"│ {model} "))
        assert all(f"{score:.3f}" in row for score in scores)


def test_evaluate_records_whole_measurements_for_reports(finished: CliRun, caplog: pytest.LogCaptureFixture) -> None:
    def recorded() -> int:
        return len(of_kind(read_events(finished.folder), "measured"))

    before = recorded()
    shown = cycleqd_merge("evaluate", finished.folder, "mean", "--json").json["mean"]
    event = of_kind(read_events(finished.folder), "measured")[-1]
    assert (recorded(), event["name"], event["rows"]) == (before + 1, "mean", "heldout")
    for task in TASKS:
        assert event["tasks"][task]["score"] == pytest.approx(shown[task]["score"])
        assert event["tasks"][task]["samples"] == 12
    assert cycleqd_merge("evaluate", finished.folder, "mean", "--limit", 3).code == 0
    with closing(Journal(finished.folder)):  # another process works on the run
        assert cycleqd_merge("evaluate", finished.folder, "mean").code == 0
    assert "not recorded" in caplog.text
    assert recorded() == before + 1


def test_evaluate_can_stop_after_the_first_rows(finished: CliRun) -> None:
    answers = [
        cycleqd_merge("evaluate", finished.folder, "mean", *limit, "--json").json["mean"]
        for limit in ((), ("--limit", "3"))
    ]
    for task in TASKS:
        whole, first = (answer[task]["samples"] for answer in answers)
        assert list(first.items()) == list(whole.items())[:3]


def export(run: CliRun, name: str, out: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and record of a model that `export` wrote, once transformers has loaded it and generated with it."""
    answer = cycleqd_merge("export", run.folder, name, out)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == f"exported {name} to {out}\n"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    tokens = tokenizer("ab ", return_tensors="pt").input_ids
    assert model.generate(tokens, max_new_tokens=3, do_sample=False).shape[1] > tokens.shape[1]
    return read_tensors(out), json.loads((out / "genome.json").read_text())


@pytest.mark.parametrize("form", ["best-mean", "aggregate", "best:letters", "cell"])
def test_export_writes_a_model_that_transformers_loads(
    finished: CliRun, models: Models, summary: dict[str, Any], tmp_path: Path, form: str
) -> None:
    elite = summary["archives"]["vowels"]["elites"][-1]
    name = f"vowels:{elite['cell'][0]}" if form == "cell" else form
    tensors, record = export(finished, name, tmp_path / "out")
    base = read_tensors(models.base)
    assert {key: (value.shape, value.dtype) for key, value in tensors.items()} == {
        key: (value.shape, value.dtype) for key, value in base.items()
    }
    assert record["name"] == name
    if form == "cell":
        assert record["evaluation"] == elite["evaluation"]
        assert record["search_scores"] == elite["scores"]
    if form == "best-mean":
        assert record["evaluation"] == summary["best_mean"]


def test_an_exported_expert_is_the_expert_itself(finished: CliRun, models: Models, tmp_path: Path) -> None:
    tensors, _ = export(finished, "expert:second", tmp_path / "out")
    wanted = read_tensors(models.second)
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)


def test_an_exported_mean_is_the_mean_of_the_experts(finished: CliRun, models: Models, tmp_path: Path) -> None:
    tensors, _ = export(finished, "mean", tmp_path / "out")
    first, second = read_tensors(models.first), read_tensors(models.second)
    for name, tensor in tensors.items():
        wanted = (first[name].double() + second[name].double()) / 2
        assert torch.allclose(tensor.double(), wanted, rtol=2**-8, atol=1e-6)  # bfloat16 keeps 8 bits


def test_an_export_never_overwrites(finished: CliRun, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    answer = cycleqd_merge("export", finished.folder, "mean", tmp_path)
    assert (answer.code, answer.err) == (2, f"error: {tmp_path}: already exists; choose a different folder\n")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.fixture
def with_failure(finished: CliRun, tmp_path: Path) -> Path:
    """The finished run as if its last evaluation had failed."""
    lines = [json.loads(line) for line in (finished.folder / JOURNAL_FILE).read_text().splitlines()]
    sessions = [place for place, line in enumerate(lines) if line["event"] == "session"]
    lines = [line for line in lines[: [*sessions, None][1]] if line["event"] not in ("confirm", "measured")]
    lines[-1] = {**lines[-1], "scores": None, "error": "ValueError: no luck"}
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / JOURNAL_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "failed"


def test_a_failed_evaluation_is_counted_and_can_be_shown(with_failure: Path) -> None:
    assert cycleqd_merge("show", with_failure).out.startswith("generation 4 of 4, 1 failed, best mean #")
    shown = cycleqd_merge("show", with_failure, "--elite", "#5", "--json").json
    assert shown["lineage"][0]["scores"] is None
    assert cycleqd_merge("show", with_failure, "--elite", "#5").code == 0


def test_a_failed_evaluation_can_be_exported_without_scores(with_failure: Path, tmp_path: Path) -> None:
    answer = cycleqd_merge("export", with_failure, "#5", tmp_path / "out")
    assert (answer.code, answer.err) == (0, "")
    record = json.loads((tmp_path / "out" / "genome.json").read_text())
    assert (record["evaluation"], record["search_scores"]) == (5, None)


def test_figures_are_drawn_even_of_a_failed_evaluation(with_failure: Path, tmp_path: Path) -> None:
    answer = cycleqd_merge("plot", with_failure, "--elite", "#5", "--out", tmp_path / "figures")
    assert (answer.code, answer.err) == (0, "")
    assert {Path(line).name for line in answer.out.splitlines()} == {
        f"{figure}.{kind}" for figure in ("archives", "progress", "lineage") for kind in ("png", "svg")
    }
    assert all(Path(line).stat().st_size > 1000 for line in answer.out.splitlines())
