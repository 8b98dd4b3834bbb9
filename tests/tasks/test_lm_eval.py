"""Tasks of lm-evaluation-harness score as with its own model class, sample by sample; unsupported ones are refused."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cycleqd_merge.config.anchoring import anchored_task
from cycleqd_merge.config.engines import TransformersEngineConfig
from cycleqd_merge.config.recipe import TaskConfig
from cycleqd_merge.config.tasks import LmEvalTaskConfig
from cycleqd_merge.errors import TaskError
from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.evaluation.worker import Worker
from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.preflight.prompts import check_prompts
from cycleqd_merge.tasks.lm_eval import LmEvalTask, _manager
from cycleqd_merge.tasks.suite import SuiteTask, open_task
from tests import chat_templates as known
from tests.models import edit_json, make_base, make_recipe, make_tokenizer, open_recipe_family

DOCUMENTS = 16


def words(rng: Any, length: int) -> str:
    return "".join(rng.choice(list(string.ascii_lowercase + "  "), size=length)).strip() or "word"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Files in the format of ARC's and GSM8K's data, by task and split."""
    folder, rng = tmp_path_factory.mktemp("data"), generator(0, "lm-eval")
    files: dict[str, dict[str, str]] = {"arc_easy": {}, "gsm8k": {}}
    for split in ("train", "validation", "test"):
        choices = [[words(rng, int(rng.integers(1, 9))) for _ in "ABCD"] for _ in range(DOCUMENTS)]
        arc = [
            {
                "question": words(rng, 20),
                "choices": {"text": texts, "label": list("ABCD")},
                "answerKey": str(rng.choice(list("ABCD"))),
            }
            for texts in choices
        ]
        gsm = [
            {"question": words(rng, 20), "answer": f"{words(rng, 9)} #### {rng.integers(9)}"} for _ in range(DOCUMENTS)
        ]
        for name, rows in (("arc_easy", arc), ("gsm8k", gsm)):
            path = folder / f"{name}-{split}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            files[name][split] = str(path)
    return files


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_base(tmp_path_factory.mktemp("model") / "base", dtype=torch.float32)
    edit_json(folder / "config.json", max_position_embeddings=2048)
    return folder


@pytest.fixture(scope="module")
def hf(model: Path) -> Any:
    """lm-evaluation-harness's own class for transformers models."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(model), dtype="float32", device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def engine(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformersEngine]:
    family = open_recipe_family(
        make_recipe(tmp_path_factory.mktemp("recipe"), model, {"first": model, "second": model})
    )
    opened = TransformersEngine(
        TransformersEngineConfig(device="cpu", batch_size=5), Materialiser(family, Groups(family.weights, "one"), {})
    )
    yield opened
    opened.close()


def defined(data: dict[str, dict[str, str]], name: str, **keys: Any) -> LmEvalTaskConfig:
    overrides = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": data[name]}}
    overrides |= keys.pop("overrides", {})
    return LmEvalTaskConfig.model_validate({"kind": "lm_eval", "task": name, "overrides": overrides, **keys})


def ours(definition: LmEvalTaskConfig, engine: TransformersEngine) -> dict[str, tuple[float, str]]:
    """Score and output of every sample of both halves, by its question."""
    use = TaskConfig(task=definition, name="task")
    task = open_task(use, 0.0)
    worker = Worker(engine, (task,))
    found = {}
    for rows in ("search", "heldout"):
        result = worker.evaluate(None, rows).results["task"]  # type: ignore[arg-type]
        questions = [sample.row["document"]["question"] for sample in task.samples(rows)]  # type: ignore[arg-type]
        found |= {
            question: (outcome.score, outcome.output)
            for question, outcome in zip(questions, result.outcomes, strict=True)
        }
    return found


def theirs(definition: LmEvalTaskConfig, hf: Any, filtered: str, **options: Any) -> list[dict[str, Any]]:
    """The log of every document by lm-evaluation-harness's own `hf` model and evaluator."""
    import lm_eval

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    results = lm_eval.simple_evaluate(
        hf,
        tasks=[{"group": "one", "task": [{"task": definition.task, **definition.overrides}]}],
        num_fewshot=definition.num_fewshot,
        bootstrap_iters=0,
        task_manager=_manager(None, True),  # an index of files that takes seconds to build
        **options,
    )
    return [each for each in results["samples"][definition.task] if each["filter"] == filtered]


def graded(samples: list[dict[str, Any]], metric: str) -> dict[str, tuple[float, str]]:
    """Score and output of every document, by its question."""
    return {each["doc"]["question"]: (float(each[metric]), _output(each)) for each in samples}


def _output(sample: dict[str, Any]) -> str:
    """The model's text, or the most likely continuation."""
    first = sample["resps"][0][0]
    if isinstance(first, str):
        return first
    likelihoods = [answers[0][0] for answers in sample["resps"]]
    return str(sample["arguments"][likelihoods.index(max(likelihoods))][1])


FAST = {"generation_kwargs": {"until": ["Question:", "q"], "do_sample": False, "max_gen_toks": 24}}
ANYTHING = [
    {"name": "strict-match", "filter": [{"function": "regex", "regex_pattern": "([a-f])"}, {"function": "take_first"}]},
    {"name": "whole", "filter": [{"function": "take_first"}]},
]


@pytest.mark.parametrize(
    ("keys", "options"),
    [
        ({}, {}),
        ({"num_fewshot": 2}, {}),
        ({"chat": True, "system": "Think."}, {"apply_chat_template": True, "system_instruction": "Think."}),
        (
            {"chat": True, "num_fewshot": 1, "fewshot_as_multiturn": True},
            {"apply_chat_template": True, "fewshot_as_multiturn": True},
        ),
        ({"overrides": {"gen_prefix": "So:"}, "chat": True}, {"apply_chat_template": True}),
    ],
)
def test_a_multiple_choice_task_scores_as_in_the_harness(
    data: Any, hf: Any, engine: TransformersEngine, keys: Any, options: Any
) -> None:
    expected = theirs(defined(data, "arc_easy", **keys), hf, "none", **options)
    for metric in ("acc", "acc_norm"):
        found = ours(defined(data, "arc_easy", metric=metric, **keys), engine)
        assert found == graded(expected, metric)
        assert len(found) == DOCUMENTS
        assert {score for score, _ in found.values()} == {0.0, 1.0}


@pytest.mark.parametrize(
    ("keys", "options"),
    [
        ({}, {}),  # five examples, its own default
        ({"num_fewshot": 1, "system": "Count."}, {"system_instruction": "Count."}),
        ({"num_fewshot": 0, "chat": True}, {"apply_chat_template": True}),
    ],
)
def test_a_generation_task_scores_as_in_the_harness(
    data: Any, hf: Any, engine: TransformersEngine, keys: Any, options: Any
) -> None:
    """A random model cannot answer GSM8K: here, any answer in which the filter finds the right letter is right."""
    grading = {"doc_to_target": "{{question[0]}}", "filter_list": ANYTHING, "metric_list": [EXACT]}
    definition = defined(data, "gsm8k", metric="exact_match,strict-match", overrides={**FAST, **grading}, **keys)
    found = ours(definition, engine)
    assert found == graded(theirs(definition, hf, "strict-match", **options), "exact_match")
    assert len(found) == DOCUMENTS


EXACT = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}


def test_likelihoods_equal_those_of_the_harness(data: Any, hf: Any, engine: TransformersEngine) -> None:
    """A task of output type `loglikelihood` scores whether greedy decoding would write the target."""
    kind = {"output_type": "loglikelihood", "doc_to_choice": None, "metric_list": [{**EXACT, "metric": "acc"}]}
    written = ours(defined(data, "gsm8k", num_fewshot=0, overrides={**FAST, "metric_list": [EXACT]}), engine)
    targets = {question: output[:2] for question, (_, output) in written.items()}
    rows = [json.loads(line) for line in Path(data["gsm8k"]["test"]).read_text().splitlines()]
    path = Path(data["gsm8k"]["test"]).with_name("greedy.jsonl")
    path.write_text("".join(json.dumps({**row, "target": targets[row["question"]]}) + "\n" for row in rows[:4]))
    with path.open("a") as file:
        file.writelines(json.dumps({**row, "target": "~" + targets[row["question"]]}) + "\n" for row in rows[4:])
    keys = {
        **kind,
        "generation_kwargs": None,
        "filter_list": None,
        "doc_to_target": "{{target}}",
        "target_delimiter": "",
        "dataset_kwargs": {"data_files": {"test": str(path), "train": str(path)}},
    }
    definition = defined(data, "gsm8k", num_fewshot=0, metric="acc", overrides=keys)
    found = ours(definition, engine)
    assert found == graded(theirs(definition, hf, "none"), "acc")
    assert {score for score, _ in found.values()} == {0.0, 1.0}


def test_prompts_are_built_once_and_sample_ids_are_reproducible(
    data: Any, engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = defined(data, "arc_easy", limit=5)
    first, second = LmEvalTask(definition), LmEvalTask(definition)
    ids = [[sample.id for split in ("search", "heldout") for sample in task.samples(split)] for task in (first, second)]
    assert ids[0] == ids[1]
    assert [len(first.samples(split)) for split in ("search", "heldout")] == [3, 2]
    suite = SuiteTask("task", TaskConfig(task=definition, name="task"), None, first)  # type: ignore[arg-type]
    worker = Worker(engine, (suite,))
    scores = worker.evaluate(None).scores
    monkeypatch.setattr(type(first._tasks["arc_easy"]), "fewshot_context", None)
    assert worker.evaluate(None).scores == scores


def test_a_group_is_one_set_of_samples(data: Any, tmp_path: Path) -> None:
    for name, source in (("easy", "test"), ("hard", "validation")):
        path = data["arc_easy"][source]
        (tmp_path / f"{name}.yaml").write_text(
            f"task: own_{name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: '{path}'}}}}\n"
            "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{question}}'\n"
            "doc_to_target: '{{choices.label.index(answerKey)}}'\ndoc_to_choice: '{{choices.text}}'\n"
            "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
        )
    (tmp_path / "group.yaml").write_text("group: own_group\ntask: [own_easy, own_hard]\n")
    stated = {"kind": "lm_eval", "task": "own_group", "include": ".", "limit": 4}
    task = LmEvalTask(anchored_task(LmEvalTaskConfig.model_validate(stated), tmp_path))
    names = [sample.row["task"] for split in ("search", "heldout") for sample in task.samples(split)]
    assert sorted(names) == ["own_easy"] * 4 + ["own_hard"] * 4
    alone = LmEvalTask(anchored_task(LmEvalTaskConfig(kind="lm_eval", task="easy.yaml"), tmp_path))
    assert len(alone.samples("search")) == (DOCUMENTS + 1) // 2


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"task": "gms8k"}, r"^task: lm-evaluation-harness has no task 'gms8k', .*; did you mean 'gsm8k'\?"),
        ({"overrides": {"unsafe_code": True}}, "task: arc_easy runs model-written code .*; use a task of kind `code`"),
        ({"overrides": {"doc_to_image": "x"}}, "requires images or sound"),
        ({"metric": "f1"}, "metric: arc_easy has no mean over samples called 'f1'; allowed: acc, acc_norm"),
        ({"metric": "acc,strict"}, "metric: arc_easy has no filter 'strict'; allowed: none"),
        ({"overrides": {"dataset_kwargs": {"data_files": "/nowhere.jsonl"}}}, "task: arc_easy cannot be loaded: "),
        (
            {"overrides": {"metric_list": [{"metric": "perplexity"}]}},
            "metric: arc_easy has no metric that is a mean over samples",
        ),
    ],
)
def test_unsupported_tasks_are_refused_when_opened(data: Any, keys: dict[str, Any], reason: str) -> None:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    definition = defined(data, "arc_easy", **{key: value for key, value in keys.items() if key != "task"})
    with pytest.raises(TaskError, match=reason):
        LmEvalTask(definition.model_copy(update={"task": keys.get("task", "arc_easy")}))


@pytest.mark.parametrize("key", ["chat_template", "fewshot_as_multiturn"])
def test_chat_keys_require_a_chat(key: str) -> None:
    with pytest.raises(ValueError, match="requires `chat: true`"):
        LmEvalTaskConfig.model_validate({"kind": "lm_eval", "task": "gsm8k", key: "yes"})


def test_a_model_without_a_chat_template_is_reported_before_a_run(data: Any) -> None:
    tokenizer = make_tokenizer(chat_template=None)
    for keys, count in (({"chat": True}, 1), ({"chat": True, "chat_template": "{{ messages }}"}, 0), ({}, 0)):
        task = open_task(TaskConfig(task=defined(data, "arc_easy", **keys), name="arc"), 0.0)
        assert len(check_prompts(task, tokenizer, None).errors) == count


ROWS = [{"q": f"q{number}", "a": str(number), "choices": ["x", "yy"], "gold": number % 2} for number in range(12)]
OWN: dict[str, Any] = {
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{q}}?",
    "doc_to_target": "{{a}}",
    "metric_list": [EXACT],
}
CHOICE: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [{**EXACT, "metric": "acc"}],
}


def own_task(folder: Path, keys: dict[str, Any], changed: dict[str, Any] | None = None) -> LmEvalTaskConfig:
    """The task `own` over twelve rows. keys: of its configuration; `definition` has those of the task's definition.

    changed: columns of the fourth row.
    """
    rows = [{**row, **(changed or {})} if number == 3 else row for number, row in enumerate(ROWS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "train.jsonl").write_text("".join(json.dumps({**row, "q": "other " + row["q"]}) + "\n" for row in ROWS))
    files = {"test": str(folder / "rows.jsonl"), "train": str(folder / "train.jsonl")}
    stated = {"dataset_path": "json", "dataset_kwargs": {"data_files": files}, "task": "own", **OWN, **keys}
    definition = stated.pop("definition", {})
    text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in stated.items())
    (folder / "own.yaml").write_text(text.replace('"FUNCTION ', "!function ").replace('FUNCTION"', ""))
    return anchored_task(LmEvalTaskConfig.model_validate({"kind": "lm_eval", "task": "own.yaml", **definition}), folder)  # type: ignore[return-value]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(
    ("keys", "changed", "reason"),
    [
        (
            {"fewshot_split": "train", "definition": {"num_fewshot": 50}},
            {},
            "num_fewshot: own requires 50 examples and has 12 rows in its split .train.; set `num_fewshot` to 12",
        ),
        (
            {"fewshot_split": "test", "num_fewshot": 12},
            {},
            "num_fewshot: own requires 12 examples and has 11 rows in its split 'test', the question itself not ",
        ),
        (
            {"fewshot_config": {"sampler": "first_n", "samples": ROWS[:2]}, "num_fewshot": 3},
            {},
            "num_fewshot: own requires 3 examples and has 2 rows to draw them from; set `num_fewshot` to 2 or less",
        ),
        ({"doc_to_text": "{{q}} {{missing}}"}, {}, "task: .* 'missing' is undefined"),
        ({"doc_to_text": "{{q[0]}} {{q.split()[1]}}"}, {}, "task: .*"),
        ({"doc_to_text": "{{100 // (a | int - 3)}}"}, {}, "task: own: row 3: ZeroDivisionError: "),
        (
            {"doc_to_target": "a"},
            {"a": None},
            "task: own: row 3: `doc_to_target` gives no right answer; correct or remove",
        ),
        (CHOICE, {"gold": 2}, "task: own: row 3: the right answer 2 is neither one of the choices 'x', 'yy' nor "),
        (CHOICE, {"gold": -1}, "task: own: row 3: the right answer -1 is neither one of the choices"),
        (CHOICE, {"gold": None}, "task: own: row 3: the right answer None is neither one of the choices"),
        ({**CHOICE, "doc_to_target": "a"}, {}, "task: own: row 0: the right answer '0' is neither one of"),
        (CHOICE, {"choices": []}, "task: own: row 3: no choices to score"),
        (
            {"process_results": "!function graders.missing"},
            {},
            "process_results: own states the text '!function graders.*'",
        ),
        ({"process_results": "FUNCTION nowhere.gradeFUNCTION"}, {}, "task: .*own.yaml cannot be loaded: .*nowhere"),
        ({"process_results": "FUNCTION graders.missingFUNCTION"}, {}, "task: .*own.yaml cannot be loaded: .*missing"),
        (
            {"process_results": "FUNCTION graders.brokenFUNCTION"},
            {},
            "task: own: row 0: KeyError: 'no'; correct the task",
        ),
        (
            {"process_results": "FUNCTION graders.otherFUNCTION"},
            {},
            "task: own: row 0: its `process_results` gives f1, not exact_match",
        ),
        (
            {"process_results": "FUNCTION graders.nothingFUNCTION"},
            {},
            "task: own: row 0: its exact_match is null, not a number from 0 to 1",
        ),
        (
            {"process_results": "FUNCTION graders.nanFUNCTION"},
            {},
            "task: own: row 0: its exact_match is nan, not a number",
        ),
        (
            {"process_results": "FUNCTION graders.percentFUNCTION"},
            {},
            "its exact_match is 50.0, not a number from 0 to 1",
        ),
        ({**CHOICE, "definition": {"thinking": "strip"}}, {}, "thinking: `strip` has no effect on .*own.yaml, which"),
        (
            {"generation_kwargs": {"do_sample": True, "temperature": 0.7, "top_p": 0.9}},
            {},
            "task: own: row 0: sampling with top_p is not supported; override its `generation_kwargs`",
        ),
        ({"generation_kwargs": {"max_gen_toks": "many"}}, {}, "task: own: row 0: ValueError: invalid literal for int"),
        ({"generation_kwargs": {"until": [1]}}, {}, r"row 0: `until` in its `generation_kwargs` is \[1\], not a list"),
        ({"test_split": "exam"}, {}, "task: .*own.yaml cannot be loaded: its data or configuration has no 'exam'"),
    ],
)
def test_what_no_model_can_answer_is_reported_when_opened(
    keys: dict[str, Any], changed: dict[str, Any], reason: str, chat: bool, tmp_path: Path
) -> None:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    (tmp_path / "graders.py").write_text(
        "def broken(doc, results): return {'exact_match': doc['no']}\n"
        "def other(doc, results): return {'f1': 1.0}\n"
        "def nothing(doc, results): return {'exact_match': None}\n"
        "def nan(doc, results): return {'exact_match': float('nan')}\n"
        "def percent(doc, results): return {'exact_match': 50.0}\n"
    )
    keys = {**keys, "definition": {**keys.get("definition", {}), "chat": chat}}
    with pytest.raises(TaskError, match=reason) as refused:
        LmEvalTask(own_task(tmp_path, keys, changed))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("keys", "definition", "template", "error", "notice"),
    [
        ({}, {}, None, None, None),
        (
            {"num_fewshot": 12},
            {},
            None,
            "12 of 12 prompts, such as row own 0, leave no room for an answer in the",
            None,
        ),
        ({"generation_kwargs": {"max_gen_toks": 118}}, {}, None, None, "12 of 12 prompts, .* leave less room than an"),
        ({**CHOICE, "num_fewshot": 12}, {}, None, None, "24 of 24 prompts, .* beginning is cut off, as by lm-eval"),
        (CHOICE, {}, None, None, None),
        ({"description": "Count."}, {"chat": True}, known.CHATML, None, None),
        (
            {"description": "Count."},
            {"chat": True},
            known.GEMMA,
            "task: own: row 0: the chat template rejects these turns: System role not supported; lm-.* `description`",
            None,
        ),
        ({"description": "Count."}, {"chat": True}, known.NO_SYSTEM, "row 0: the chat template drops the system", None),
        ({}, {"chat": True, "system": "Be brief."}, known.NO_SYSTEM, "drops the system turn; put its text into", None),
        ({"gen_prefix": "So:"}, {"chat": True}, known.NO_ANSWERS, "row 0: the chat template drops the assistant", None),
        ({"gen_prefix": "So:"}, {"chat": True}, known.GEMMA, None, None),
        ({"num_fewshot": 12}, {"chat": True}, known.CHATML, "12 of 12 prompts, such as row own 0, leave no room", None),
    ],
)
def test_prompts_that_do_not_fit_the_model_are_reported_before_a_run(
    keys: Any, definition: Any, template: str | None, error: str | None, notice: str | None, tmp_path: Path
) -> None:
    """Templates and contexts of models: what the harness writes besides the question is known only by its prompts."""
    options = {"training_split": "train", "generation_kwargs": {"max_gen_toks": 20}, **keys}
    stated = own_task(tmp_path, {**options, "definition": definition})
    use = TaskConfig(task=stated, name="own")
    found = check_prompts(SuiteTask("own", use, stated, LmEvalTask(stated)), make_tokenizer(template), 120)
    for reported, expected in ((found.errors, error), (found.notices, notice)):
        assert len(reported) == (expected is not None), reported
        assert expected is None or re.search(expected, reported[0])


@pytest.mark.parametrize("where", ["folder", "file"])
def test_dataset_scripts_are_reported_as_such(where: str, tmp_path: Path) -> None:
    script = tmp_path / "mine" / "mine.py"
    script.parent.mkdir()
    script.write_text("import datasets\nclass Mine(datasets.GeneratorBasedBuilder): ...\n")
    keys = {
        "dataset_path": str(script if where == "file" else script.parent),
        "dataset_kwargs": {"trust_remote_code": True},
    }
    with pytest.raises(TaskError, match=r"its dataset is a Python script, .*; set `dataset_path` in `overrides` to "):
        LmEvalTask(own_task(tmp_path, keys))


@pytest.mark.parametrize(
    ("keys", "count"),
    [
        ({"num_fewshot": 3}, 4),  # without a split for them, the harness draws from the test rows
        ({"num_fewshot": 3, "training_split": "train"}, 0),
        ({"num_fewshot": 3, "fewshot_split": "test"}, 0),  # the harness leaves out the question itself
        ({"num_fewshot": 12, "fewshot_config": {"sampler": "first_n", "samples": ROWS}}, 12),
        ({"num_fewshot": 2, "fewshot_config": {"sampler": "first_n", "samples": ROWS}}, 2),
    ],
)
def test_prompts_that_show_their_own_answer_are_reported(
    keys: dict[str, Any], count: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    LmEvalTask(own_task(tmp_path, keys))
    warned = [record.getMessage() for record in caplog.records if record.name.startswith("cycleqd_merge")]
    expected = (
        f"task: own: {count} of 12 prompts show their own question and answer among the examples, such as row 0; set "
        "`fewshot_split` to a different split"
    )
    assert warned == ([expected] if count else [])


def test_an_answer_that_cannot_be_graded_fails_one_evaluation(tmp_path: Path, engine: TransformersEngine) -> None:
    """Another child's answer may well be graded, so the run continues; the message names task and row."""
    (tmp_path / "graders.py").write_text(
        "def grade(doc, results): return {'exact_match': 1.0 if results[0] == 'I do not know.' else None}\n"
    )
    definition = own_task(tmp_path, {"process_results": "FUNCTION graders.gradeFUNCTION"})
    task = LmEvalTask(definition)
    with pytest.raises(RuntimeError, match=r"task: own: row \d+: its exact_match is null") as failed:
        asyncio.run(task.score(task.samples("search")[0], engine))
    assert not isinstance(failed.value, TaskError)
