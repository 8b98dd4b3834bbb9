"""`task show`: prompts, token ids, answers and scores of every kind of task, as text that cannot harm a terminal."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from cycleqd_merge.preflight.task_show import ShownExchange, ShownSample, ShownTask
from cycleqd_merge.report.task_show import shown_lines, visible
from cycleqd_merge.tasks.protocol import Outcome
from cycleqd_merge.tasks.recording import Exchange, Recorder
from tests.cli.conftest import Models, cycleqd_merge, write_task
from tests.models import edit_json, make_adapter, make_base, on_base
from tests.tasks.agentbench import INSERT, ROWS, open_dbbench
from tests.tasks.scripted import Scripted, open_task, write_rows


def headings(text: str) -> list[str]:
    return [line.removeprefix("----- ") for line in text.splitlines() if line.startswith("----- ")]


def test_prompts_are_shown_without_a_model(tmp_path: Path) -> None:
    task = write_task(tmp_path, "letters", kind="exact")
    answer = cycleqd_merge("task", "show", task, "-n", 2)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("2 of 20 samples of the search split\n\n===== sample ")
    assert headings(answer.out) == ["prompt", "reference"] * 2
    row = json.loads((tmp_path / "letters-search.jsonl").read_text().splitlines()[0])
    assert f"----- prompt\n{row['question']}: \n----- reference\n{row['answer']}\n" in answer.out
    places = [line.split(", ")[1] for line in answer.out.splitlines() if line.startswith("===== sample ")]
    assert places == [f"{tmp_path}/letters-search.jsonl:{line}" for line in (1, 2)]
    shown = cycleqd_merge("task", "show", task, "-n", 2, "--json").json
    assert [sample["place"] for sample in shown["samples"]] == places
    heldout = cycleqd_merge("task", "show", task, "--split", "heldout", "-n", 99)
    assert heldout.out.startswith("12 of 12 samples of the held-out split\n")


def test_chat_turns_and_choices_are_shown_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text("")
    rows = write_rows(tmp_path / "rows.jsonl", {"q": "one", "answer": "a"}, {"q": "two", "answer": "b"})
    stated = {
        "kind": "generate",
        "data": {"search": {"path": str(rows)}, "heldout": {"path": str(rows)}},
        "messages": [{"role": "user", "content": "{{ q }}?"}, {"role": "assistant", "content": "It is"}],
        "system": "Be brief.",
        "scorer": {"kind": "multiple_choice", "choices": [" a", " b"]},
    }
    path = tmp_path / "task.yaml"
    path.write_text(json.dumps(stated))
    answer = cycleqd_merge("task", "show", path, "-n", 1)
    assert headings(answer.out) == ["system", "user", "assistant", "choice", "choice", "reference"]
    assert "----- user\none?\n----- assistant\nIt is\n----- choice\n a\n----- choice\n b\n" in answer.out


def test_a_models_answers_are_shown_with_tokens_and_scores(tmp_path: Path, models: Models) -> None:
    task = write_task(tmp_path, "letters", kind="exact")
    arguments = ("task", "show", task, "--model", models.first, "-n", 2)
    answer = cycleqd_merge(*arguments, "--tokens")
    assert (answer.code, answer.err) == (0, "")
    kinds = [heading.split(":")[0].split(" (")[0] for heading in headings(answer.out)]
    assert [kind.lstrip("0123456789 ") for kind in kinds] == ["prompt", "token ids", "answer", "reference", "score"] * 2
    shown = cycleqd_merge(*arguments, "--tokens", "--json").json
    assert (shown["split"], shown["available"], len(shown["samples"])) == ("search", 20, 2)
    tokenizer = AutoTokenizer.from_pretrained(models.first)
    for sample in shown["samples"]:
        (request,) = sample["requests"]
        assert request["tokens"] == tokenizer(request["prompt"]).input_ids
        assert sample["output"] == request["answer"]
        assert sample["score"] == float(request["answer"].strip() == sample["reference"])
    assert "tokens" not in cycleqd_merge(*arguments, "--json").json["samples"][0]["requests"][0]


def test_choices_are_shown_with_their_likelihoods(tmp_path: Path, models: Models) -> None:
    shown = cycleqd_merge(
        "task", "show", write_task(tmp_path, "letters"), "--model", models.base, "-n", 1, "--json"
    ).json
    (sample,) = shown["samples"]
    assert [request["continuation"] for request in sample["requests"]] == ["a", "b", "c"]
    best = max(sample["requests"], key=lambda request: request["logprob"])["continuation"]
    assert (sample["output"], sample["score"]) == (best, float(best == sample["reference"]))
    text = cycleqd_merge("task", "show", write_task(tmp_path, "letters"), "--model", models.base, "-n", 1).out
    assert [heading.split(" (")[0] for heading in headings(text)][:4] == ["prompt", "choice", "choice", "choice"]


def test_a_chat_prompt_is_shown_as_the_models_template_writes_it(tmp_path: Path, models: Models) -> None:
    task = write_task(tmp_path, "letters", kind="exact")
    edit_json(task, chat=True)
    shown = cycleqd_merge("task", "show", task, "--model", models.base, "-n", 1, "--json").json
    (request,) = shown["samples"][0]["requests"]
    tokenizer: Any = AutoTokenizer.from_pretrained(models.base)
    turns = [{"role": "user", "content": request["turns"][0]["content"]}]
    assert request["prompt"] == tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def test_an_adapter_answers_as_its_merged_model(tmp_path: Path, models: Models) -> None:
    adapter = make_adapter(models.base, tmp_path / "adapter", seed=1, scale=2.0)
    task = write_task(tmp_path, "letters")

    def logprobs(model: object) -> list[float]:
        shown = cycleqd_merge("task", "show", task, "--model", model, "--json").json
        return [request["logprob"] for sample in shown["samples"] for request in sample["requests"]]

    assert logprobs(on_base(models.base, adapter)) != logprobs(models.base)


PYTHON_TASK = """
from cycleqd_merge.plugins import Outcome, Sample, Sampling

class Twice:
    def __init__(self, fails=False, result=None):
        self.fails, self.result = fails, result

    def samples(self, split):
        return [Sample(word, {"word": word}) for word in ("one", "two")]

    async def score(self, sample, model):
        if self.fails:
            raise RuntimeError("first line\\nsecond line")
        messages = [{"role": "user", "content": f"Say {sample.id}."}]
        for _ in range(2):
            answer = await model.chat(messages, Sampling(max_new_tokens=2))
            messages += [{"role": "assistant", "content": answer.text}, {"role": "user", "content": "Again."}]
        return self.result or Outcome(0.5, answer.text, answer.truncated)
"""


def python_task(folder: Path, **options: Any) -> Path:
    (folder / "twice.py").write_text(PYTHON_TASK)
    path = folder / "twice.yaml"
    path.write_text(json.dumps({"kind": "python", "target": "twice.py:Twice", "options": options}))
    return path


def test_a_conversation_is_shown_turn_by_turn(tmp_path: Path, models: Models) -> None:
    task = python_task(tmp_path)
    without = cycleqd_merge("task", "show", task, "-n", 1)
    assert without.out.endswith("===== sample one\n----- user\nSay one.\n")
    answer = cycleqd_merge("task", "show", task, "-n", 1, "--model", models.base)
    kinds = [heading.split(" (")[0] for heading in headings(answer.out)]
    assert kinds[:4] == ["prompt", "answer", "user", "answer"]
    assert kinds[4].startswith("score: 0.5")
    assert "----- user\nAgain.\n" in answer.out


@pytest.mark.needs("mariadb")
def test_an_agents_conversation_is_recorded(tmp_path: Path) -> None:
    task = open_dbbench(tmp_path, ROWS[2])
    turns = [f"Action: Operation\n```sql\n{INSERT}\n```", "Action: Answer\nFinal Answer: []"]
    recorder = Recorder(Scripted(lambda messages: turns[len(messages) // 2]))
    (sample,) = task.samples("search")
    outcome = asyncio.run(task.score(sample, recorder))
    exchanges = tuple(map(ShownExchange, recorder.exchanges))
    shown = ShownTask("search", 1, (ShownSample(sample.id, exchanges, task.reference_of(sample), outcome),))
    text = "\n".join(shown_lines(shown))
    assert headings(text) == ["prompt", "answer", "user", "answer", "reference", "score: 1"]
    assert f"----- answer\n{turns[0]}\n----- user\n[]\n----- answer\n{turns[1]}\n----- reference\n{INSERT}\n" in text


def test_a_task_of_the_harness_is_shown(tmp_path: Path, models: Models) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", *({"q": f"letter {n}", "a": "abcdef"[n]} for n in range(6)))
    (tmp_path / "sums.yaml").write_text(
        json.dumps(
            {
                "task": "sums",
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": {"test": str(rows)}},
                "output_type": "multiple_choice",
                "test_split": "test",
                "doc_to_text": "{{q}} =",
                "doc_to_target": "{{a}}",
                "doc_to_choice": list("abcdef"),
                "metric_list": [{"metric": "acc"}],
            }
        )
    )
    task = tmp_path / "task.yaml"
    task.write_text(json.dumps({"kind": "lm_eval", "task": "sums.yaml"}))
    answer = cycleqd_merge("task", "show", task, "-n", 1)
    assert (answer.code, answer.err) == (0, "")
    assert headings(answer.out) == ["prompt", *["choice"] * 6]
    answer = cycleqd_merge("task", "show", task, "-n", 1, "--model", models.base, "--json")
    assert len(answer.json["samples"][0]["requests"]) == 6


def test_mistakes_are_one_line(tmp_path: Path, models: Models) -> None:
    task = write_task(tmp_path, "letters", kind="exact")
    plain = make_base(tmp_path / "plain")
    (plain / "chat_template.jinja").unlink(missing_ok=True)
    edit_json(plain / "tokenizer_config.json", chat_template=None)
    chat = write_task(tmp_path, "chat", kind="exact")
    edit_json(chat, chat=True)
    for folder in ("other", "odd"):
        (tmp_path / folder).mkdir()
    (tmp_path / "rows.csv").write_text("question,answer\n1,2\n")
    for arguments, problem in [
        ((tmp_path / "no.yaml",), "no.yaml"),
        ((tmp_path / "rows.csv",), f"{tmp_path}/rows.csv: a file of rows, not a task; name a YAML file"),
        ((python_task(tmp_path / "odd", result=3), "--model", models.base), "sample one: the result is of type int"),
        ((task, "--tokens"), "token ids depend on the model: add --model"),
        ((task, "--model", tmp_path / "nowhere"), "nowhere"),
        ((task, "--model", "https://example.org/x"), "write a model as a Hub id or a path"),
        ((chat, "--model", plain), "chat template"),
        ((python_task(tmp_path / "other", fails=True),), "the task fails: RuntimeError: first line"),
        ((tmp_path / "other" / "twice.yaml", "--model", models.base), "the task fails: RuntimeError: first line"),
    ]:
        answer = cycleqd_merge("task", "show", *arguments)
        assert (answer.code, answer.out) == (2, ""), arguments
        assert problem in answer.err
        assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\nünï ☃ 日本 🎷", "plain\ttext\nünï ☃ 日本 🎷"),
        ("\x1b[2J\x1b]52;c;cm0gLXJm\x07", "\\x1b[2J\\x1b]52;c;cm0gLXJm\\x07"),
        ("a\rb\x08c\x00\x7f\x9b", "a\\rb\\x08c\\x00\\x7f\\x9b"),
        ("\u202eright to left\u2066\u200b", "\\u202eright to left\\u2066\\u200b"),
        ("\ud800 \u2028 \u00a0", "\\ud800 \\u2028 \\xa0"),
        ("[red]not markup[/red]", "[red]not markup[/red]"),
    ],
)
def test_text_cannot_control_a_terminal(text: str, shown: str) -> None:
    assert visible(text) == shown
    task = ShownTask("search", 1, (ShownSample("x", (ShownExchange(Exchange(None, text)),), text, Outcome(0.0)),))
    assert list(shown_lines(task))[3::2] == [shown, shown]


def test_known_answers_of_a_generate_task_are_checked(tmp_path: Path) -> None:
    open_task(tmp_path, {"q": "1", "answer": "1,200"}, {"q": "2", "answer": "1.5"})
    stated = {
        "kind": "generate",
        "data": {"search": {"path": "rows.jsonl"}, "heldout": {"path": "rows.jsonl"}},
        "prompt": "{{ q }}",
        "scorer": {"kind": "exact"},
    }
    path = tmp_path / "task.yaml"
    path.write_text(json.dumps(stated))
    answer = cycleqd_merge("task", "check", path)
    assert (answer.code, answer.err) == (0, "")
    assert "4 of 4" in answer.out
    stated["scorer"] = {"kind": "exact", "pattern": r"#### (\d+)", "replace": {",": ""}}
    path.write_text(json.dumps(stated))
    answer = cycleqd_merge("task", "check", path)
    assert answer.code == 1
    assert answer.err.endswith("known answers are graded incorrectly\n")
