"""What a fit learns from: the token ids that the engine saw, for every kind of task."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from cycleqd_merge.config.anchoring import anchored_task
from cycleqd_merge.config.recipe import TaskConfig
from cycleqd_merge.config.tasks import TaskDefinitionConfig
from cycleqd_merge.evaluation.engines.answers import AnswerReader
from cycleqd_merge.evaluation.engines.chat import ChatModel
from cycleqd_merge.evaluation.engines.prompts import Rendered
from cycleqd_merge.evaluation.fit_examples import conversations
from cycleqd_merge.evaluation.pools.pool import LocalPool
from cycleqd_merge.evaluation.worker import Evaluation, Worker
from cycleqd_merge.evolution.archive import ArchiveSnapshot, Axis
from cycleqd_merge.fitting.examples import Example
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.strategies.racing import Race
from cycleqd_merge.tasks.attempts import Turn, recording
from cycleqd_merge.tasks.lm_eval import LmEvalTask
from cycleqd_merge.tasks.protocol import Completion, Likelihood, Sampling, Task
from cycleqd_merge.tasks.suite import SuiteTask
from cycleqd_merge.tasks.targets import has_targets
from tests import chat_templates as known
from tests.evaluation.conftest import BASE, use
from tests.evaluation.test_seam import open_family_engine
from tests.models import edit_json
from tests.tasks.agentbench import ROWS, open_dbbench
from tests.tasks.code.test_task import DOUBLE, open_code
from tests.tasks.os_interaction.test_task import WORD, open_os
from tests.tasks.scripted import open_task
from tests.tokenizer_families import SIZE, make_family_tokenizer

QUESTIONS = ("What do bees make?", "1 + 1 = ", "A dam\n", "  hello, how are you?", "def answer():", "Say 3.14!")


class Talking(ChatModel):
    """An engine without weights: `reply` answers a prompt's text, and an end token follows."""

    def __init__(
        self, tokenizer: Any, reply: Callable[[str], str] = lambda prompt: "", context: int | None = None
    ) -> None:
        self._tokenizer, self._reply = tokenizer, reply
        self._reader = AnswerReader(tokenizer, [tokenizer.eos_token_id], context)

    async def _generated(self, tokens: list[int], sampling: Sampling) -> tuple[Completion, Sequence[int]]:
        text = self._reply(self._tokenizer.decode(tokens))
        answer = [*self._tokenizer(text, add_special_tokens=False).input_ids, self._tokenizer.eos_token_id]
        answer = answer[: sampling.max_new_tokens]
        await asyncio.sleep(0.001 * len(answer))  # answers arrive in another order than requests
        return self._reader.read(answer, sampling), answer

    async def _scored(self, tokens: list[int], scored: int) -> Likelihood:
        await asyncio.sleep(0.001 * scored)
        return Likelihood((-1.0,) * scored, False)

    def load(self, candidate: Any) -> None:
        """Does nothing."""

    def prepare(self, candidate: Any) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def recorded(task: Task, engine: Any, **options: Any) -> tuple[Example, ...]:
    """The examples of a task's search samples."""
    use_ = TaskConfig.model_validate({"name": "task", "task": {"kind": "python", "target": "x.py:X"}})
    return evaluated(SuiteTask("task", use_, use_.task, task), engine, **options).examples["task"]  # type: ignore[arg-type]


def evaluated(task: SuiteTask, engine: Any, **options: Any) -> Evaluation:
    return Worker(engine, (task,)).evaluate(None, record=("task",), **options)


def trained(tokenizer: Any, example: Example) -> str:
    """The text of the trained tokens, with special tokens."""
    return str(tokenizer.decode([example.tokens[place] for place in example.trained]))


# a model's own answers


@pytest.fixture(scope="module")
def random_model() -> Any:
    config = LlamaConfig(
        vocab_size=SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config)


class Truth:
    """Transformers alone, one prompt at a time, with a model that ends some of its answers."""

    def __init__(self, folder: Path, model: Any, family: str, template: str | None) -> None:
        make_family_tokenizer(family, template).save_pretrained(folder)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.end: int = self.tokenizer.eos_token_id
        with torch.inference_mode():
            frequent = self.greedy(model, self.tokenizer("What do bees make?").input_ids, 3)[-1]
            model.lm_head.weight[self.end] = 1.01 * model.lm_head.weight[frequent]
        model.save_pretrained(folder)
        for name in ("config.json", "generation_config.json"):
            edit_json(folder / name, eos_token_id=self.end, bos_token_id=self.tokenizer.bos_token_id)
        self.folder, self.model = folder, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def greedy(self, model: Any, tokens: Sequence[int], limit: int) -> list[int]:
        """The most likely continuation, with its end token."""
        found: list[int] = []
        while len(found) < limit and self.end not in found:
            found.append(int(model(torch.tensor([[*tokens, *found]])).logits[0, -1].argmax()))
        return found

    def check(self, example: Example, prompt: Sequence[int], limit: int) -> bool:
        """The example is the prompt and the answer, also when it is read token by token; whether it ends."""
        answer = self.greedy(self.model, prompt, limit)
        assert example.tokens == (*prompt, *answer)
        assert example.trained == tuple(range(len(prompt), len(example.tokens)))
        with torch.inference_mode():
            best = self.model(torch.tensor([example.tokens])).logits[0].argmax(-1)
        assert [int(best[place - 1]) for place in example.trained] == answer
        return answer[-1] == self.end


PREFILLED = [{"role": "user", "content": "{{ q }}"}, {"role": "assistant", "content": "The answer is"}]
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "{{ q }}"}]
CHATS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "chatml": ("qwen", known.CHATML, {"messages": ASKED}),
    "chatml, begun": ("qwen", known.CHATML, {"messages": PREFILLED}),
    "llama 3": ("llama3", "{{ bos_token }}" + known.LLAMA3, {"messages": ASKED}),
    "gemma": ("gemma", known.GEMMA3, {"messages": ASKED}),
    "mistral": ("mistral", known.MISTRAL, {"messages": ASKED}),
    "thinking opened": ("deepseek", known.R1, {"prompt": "{{ q }}", "chat": True}),
    "thinking stripped": ("deepseek", known.R1, {"prompt": "{{ q }}", "chat": True, "thinking": "strip"}),
    "thinking off": ("qwen", known.QWEN3, {"prompt": "{{ q }}", "chat": True, "thinking": "off"}),
    "tokenizer appends": ("llama2_ends", "{{ bos_token }}" + known.CHATML, {"messages": ASKED}),
}


@pytest.mark.parametrize("name", CHATS)
def test_examples_of_chats_are_what_transformers_renders_and_generates(
    name: str, random_model: Any, tmp_path: Path
) -> None:
    family, template, keys = CHATS[name]
    truth = Truth(tmp_path / "model", random_model, family, template)
    task = open_task(tmp_path, *({"q": q, "answer": "x"} for q in QUESTIONS), max_new_tokens=9, **keys)
    engine = open_family_engine(truth.folder, tmp_path)
    examples = recorded(task, engine)
    engine.close()
    turns = keys.get("messages", [{"role": "user", "content": "{{ q }}"}])
    begun = turns[-1]["role"] == "assistant"
    for question, example in zip(QUESTIONS, examples, strict=True):
        messages = [{**turn, "content": turn["content"].replace("{{ q }}", question)} for turn in turns]
        ids = truth.tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=not begun,
            continue_final_message=begun,
            return_dict=False,
            **({"enable_thinking": False} if keys.get("thinking") == "off" else {}),
        )
        truth.check(example, ids, 9)
        assert example.score == 0.0


@pytest.mark.parametrize("family", ["gpt2", "llama3", "llama2", "gemma", "qwen"])
def test_examples_of_plain_prompts_begin_as_the_tokenizer_begins_texts(
    family: str, random_model: Any, tmp_path: Path
) -> None:
    truth = Truth(tmp_path / "model", random_model, family, None)
    task = open_task(tmp_path, *({"q": q, "answer": "x"} for q in QUESTIONS), max_new_tokens=9)
    engine = open_family_engine(truth.folder, tmp_path)
    examples = recorded(task, engine)
    choices = recorded(
        open_task(
            tmp_path,
            *({"q": q, "answer": "honey"} for q in QUESTIONS),
            scorer={"kind": "multiple_choice", "choices": [" a dam", " honey"]},
        ),
        engine,
    )
    engine.close()
    ended = [
        truth.check(example, truth.tokenizer(question).input_ids, 9)
        for question, example in zip(QUESTIONS, examples, strict=True)
    ]
    assert True in ended
    assert False in ended
    for question, example in zip(QUESTIONS, choices, strict=True):
        assert list(example.tokens) == truth.tokenizer(question + " honey").input_ids
        before = truth.tokenizer(question.rstrip()).input_ids
        assert example.trained == tuple(range(len(before), len(example.tokens)))
        assert example.score == 1.0


def test_an_answer_ends_with_its_end_token_its_stop_string_or_its_limit() -> None:
    tokenizer = make_family_tokenizer("qwen", known.CHATML)

    async def ask(sampling: Sampling) -> tuple[Turn, ...]:
        with recording() as attempts:
            await Talking(tokenizer, lambda prompt: "honey. And more.").complete("Bees make", sampling)
        return tuple(attempts[0].turns)

    for sampling, answer in (
        (Sampling(20), "honey. And more.<|im_end|>"),
        (Sampling(20, stop=(".",)), "honey."),
        (Sampling(20, stop=("<|im_end|>",)), "honey. And more.<|im_end|>"),
        (Sampling(2), tokenizer.decode(tokenizer("honey. And more.").input_ids[:2])),
    ):
        (turn,) = asyncio.run(ask(sampling))
        assert tokenizer.decode(turn.tokens[len(turn.tokens) - turn.answered :]) == answer


# conversations

LOOK = "I look.\nAction: Operation\n```sql\nSELECT 1\n```"
DONE = 'Action: Answer\nFinal Answer: ["2"]'


def two_turns(prompt: str) -> str:
    return DONE if "SELECT 1" in prompt else LOOK


def test_the_turns_of_a_conversation_are_one_example(tmp_path: Path) -> None:
    tokenizer = make_family_tokenizer("qwen", known.CHATML)
    task = open_dbbench(tmp_path, *ROWS[:2], database="sqlite")
    examples = recorded(task, Talking(tokenizer, two_turns))
    assert [example.score for example in examples] == [1.0, 0.0]
    for example, sample in zip(examples, task.samples("search"), strict=True):
        turns = [
            *task.prompt_of(sample),
            {"role": "assistant", "content": LOOK},
            {"role": "user", "content": "[(1,)]"},
            {"role": "assistant", "content": DONE},
        ]
        whole = tokenizer.apply_chat_template(turns, return_dict=False)
        assert list(example.tokens) == whole[: len(example.tokens)]
        assert tokenizer.decode(whole[len(example.tokens) :]) == "\n"  # what the template writes after the end token
        assert trained(tokenizer, example) == f"{LOOK}<|im_end|>{DONE}<|im_end|>"


def test_turns_whose_prompts_do_not_contain_the_answer_are_examples_of_their_own(tmp_path: Path) -> None:
    """Qwen3's template drops earlier thoughts."""
    tokenizer = make_family_tokenizer("qwen", known.QWEN3)
    task = open_dbbench(tmp_path, ROWS[0], database="sqlite")
    first, second = recorded(task, Talking(tokenizer, lambda prompt: f"<think>So.</think>{two_turns(prompt)}"))
    assert trained(tokenizer, first) == f"<think>So.</think>{LOOK}<|im_end|>"
    assert trained(tokenizer, second) == f"<think>So.</think>{DONE}<|im_end|>"
    assert "So." not in tokenizer.decode(second.tokens[: second.trained[0]])


def test_turns_are_joined_only_where_all_tokens_are_equal() -> None:
    def turn(*tokens: int, answered: int) -> Turn:
        return Turn("", None, tokens, answered)

    first, second = turn(1, 2, 3, answered=1), turn(1, 2, 3, 4, 5, answered=1)
    assert conversations([first, second], 0.5) == [Example((1, 2, 3, 4, 5), (2, 4), score=0.5)]
    for other in (turn(1, 2, 9, 4, 5, answered=1), turn(1, 2, 3, answered=1), turn(1, 2, 3, 4, answered=2)):
        assert len(conversations([first, other], 1.0)) == 2
    assert conversations([turn(1, answered=0), Turn("", "x", (1, 2), 1), turn(7, answered=1)], 1.0) == []


@pytest.mark.usefixtures("own_root")
def test_attempts_at_a_problem_have_their_own_scores(tmp_path: Path) -> None:
    tokenizer = make_family_tokenizer("qwen", known.CHATML)
    told = iter(["Act: answer(secret)", "Act: answer(wrong)"])
    task = open_os(tmp_path, WORD, repeats=2, temperature=1.0)
    examples = recorded(task, Talking(tokenizer, lambda prompt: next(told)))
    found = {(trained(tokenizer, example), example.score) for example in examples}
    assert found == {("Act: answer(secret)<|im_end|>", 1.0), ("Act: answer(wrong)<|im_end|>", 0.0)}


@pytest.mark.needs("bubblewrap")
def test_programs_have_their_own_scores(tmp_path: Path) -> None:
    tokenizer = make_family_tokenizer("gpt2")
    answers = ["def double(x):\n    return 2 * x", "def double(x):\n    return x"]
    told = iter(answers)
    task = open_code(tmp_path, DOUBLE, answers=2, temperature=1.0)
    examples = recorded(task, Talking(tokenizer, lambda prompt: next(told)))
    assert [(trained(tokenizer, each), each.score) for each in examples] == [
        (f"{answers[0]}<|endoftext|>", 1.0),
        (f"{answers[1]}<|endoftext|>", 0.0),
    ]


# gold answers


def test_gold_answers_are_written_as_the_template_writes_them(tmp_path: Path) -> None:
    tokenizer = make_family_tokenizer("qwen", known.CHATML)
    rows = [{"q": question, "answer": "honey"} for question in QUESTIONS]
    engine = Talking(tokenizer, lambda prompt: "wrong")
    for example, question in zip(
        recorded(open_task(tmp_path, *rows, chat=True, prompt="{{ q }}", fit="gold", stop=["\n"]), engine),
        QUESTIONS,
        strict=True,
    ):
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": "honey"}]
        assert [*example.tokens] == tokenizer.apply_chat_template(turns, return_dict=False)[: len(example.tokens)]
        assert (trained(tokenizer, example), example.score) == ("honey<|im_end|>", 1.0)


@pytest.mark.parametrize(
    ("keys", "answer", "written"),
    [
        ({}, " honey", " honey<|endoftext|>"),
        ({"stop": ["\n"]}, " honey", " honey\n"),
        ({"max_new_tokens": 3}, "hydroelectric power from a dam", None),
        ({"scorer": {"kind": "number", "pattern": "#### (.*)"}}, "12", "#### 12<|endoftext|>"),
        ({"scorer": {"kind": "token_f1"}}, "a dam", "a dam<|endoftext|>"),
        ({"scorer": {"kind": "python", "target": "scorer.py:score"}}, "x", "x<|endoftext|>"),
    ],
)
def test_gold_answers_to_plain_prompts(tmp_path: Path, keys: dict[str, Any], answer: str, written: str | None) -> None:
    (tmp_path / "scorer.py").write_text("def score(output, reference):\n    return 0.0\n")
    tokenizer = make_family_tokenizer("gpt2")
    task = open_task(tmp_path, {"q": "Bees make", "answer": answer}, fit="gold", **keys)
    (example,) = recorded(task, Talking(tokenizer))
    assert tokenizer.decode(example.tokens[: example.trained[0]]) == "Bees make"
    if written is None:
        assert len(example.trained) == 3
    else:
        assert trained(tokenizer, example) == written
    (cut,) = recorded(task, Talking(tokenizer, context=example.trained[0] + 1))
    assert cut.tokens == example.tokens[: example.trained[0] + 1]
    assert recorded(task, Talking(tokenizer, context=example.trained[0])) == ()


def test_a_gold_conversation_has_all_of_its_turns(tmp_path: Path) -> None:
    tokenizer = make_family_tokenizer("qwen", known.CHATML)
    task = open_dbbench(tmp_path, ROWS[2], database="sqlite", fit="gold")
    (example,) = recorded(task, Talking(tokenizer, two_turns))
    text = trained(tokenizer, example)
    assert text.count("<|im_end|>") == 2
    assert "INSERT INTO" in text
    assert "Final Answer" in text


# lm-evaluation-harness

HARNESS: dict[str, dict[str, Any]] = {
    "multiple_choice": {"doc_to_text": "{{q}}", "doc_to_choice": ["one", "two"], "doc_to_target": "{{gold}}"},
    "named choice": {
        "doc_to_text": "{{q}}",
        "doc_to_choice": ["one", "two"],
        "doc_to_target": "{{['one','two'][gold]}}",
    },
    "multiple_input": {
        "doc_to_text": "{{gold}}",
        "doc_to_choice": "{{[q + ' one', q + ' two']}}",
        "doc_to_target": "end",
    },
    "loglikelihood": {"doc_to_text": "{{q}}", "doc_to_target": " {{answer}}"},
    "generate_until": {"doc_to_text": "{{q}}", "doc_to_target": "{{answer}}", "generation_kwargs": {"until": ["."]}},
}


@pytest.mark.parametrize("name", HARNESS)
def test_tasks_of_the_harness(name: str, tmp_path: Path) -> None:
    rows = [{"q": f"Say {number}", "gold": number % 2, "answer": f"n{number}"} for number in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kind = name if name in ("loglikelihood", "generate_until") else "multiple_choice"
    metric = "exact_match" if kind == "generate_until" else "acc"
    stated = {
        "task": "mine",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": kind,
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}],
        **HARNESS[name],
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(stated))
    definition = anchored_task(
        TypeAdapter(TaskDefinitionConfig).validate_python({"kind": "lm_eval", "task": "mine.yaml"}), tmp_path
    )
    tokenizer = make_family_tokenizer("gpt2")
    task = LmEvalTask(definition)  # type: ignore[arg-type]
    assert has_targets(task)
    examples = recorded(task, Talking(tokenizer, lambda prompt: "n1. Yes."))
    assert len(examples) == 3
    for sample, example in zip(task.samples("search"), examples, strict=True):
        row = sample.row["document"]
        text, learned = tokenizer.decode(example.tokens), trained(tokenizer, example)
        choice = ("one", "two")[row["gold"]]
        if name == "generate_until":
            assert (text, learned) == (f"{row['q']}n1.", "n1.")
            assert example.score == float(row["answer"] == "n1")
            continue
        assert example.score == 1.0
        if name == "multiple_input":
            assert (text, learned.strip()) == (f"{row['q']} {choice} end", "end")
        elif name == "loglikelihood":
            assert learned.strip() == row["answer"]
        else:
            assert (text, learned.strip()) == (f"{row['q']} {choice}", choice)


# your own tasks


def test_tasks_of_users_say_what_is_learned(open_worker: Callable[..., Worker]) -> None:
    worker = open_worker(use("a", "Learned", scores=[1, 0.5, 0]))
    pool = LocalPool(worker)
    pool.submit(Proposal(7, BASE, {}), record=("a", "fine"))
    pool.submit(Proposal(8, BASE, {}))
    recorded_, plain = pool.next().evaluation, pool.next().evaluation
    assert recorded_ is not None
    assert plain is not None
    assert recorded_.results == plain.results
    assert plain.examples == {}
    assert recorded_.examples["fine"] == ()
    assert [example.score for example in recorded_.examples["a"]] == [1.0, 0.5]
    assert [has_targets(task.task) for task in worker._suite] == [True, False]


def test_a_race_records_the_rows_that_it_scores(open_worker: Callable[..., Worker]) -> None:
    scores = [0.25 + place / 200 for place in range(80)]
    worker = open_worker(use("a", "Learned", scores=scores))
    axes = (Axis(0.0, 1.0, 1),) * 2
    races = [
        Race(0.25, 0.99, tuple(ArchiveSnapshot(task, axes, {(0,): quality}) for task in range(2)))
        for quality in (0.999, 0.1)
    ]
    for race in races:
        evaluation = worker.evaluate(BASE, race=race, record=("a",))
        wanted = [outcome.score for outcome in evaluation.results["a"].outcomes]
        assert [example.score for example in evaluation.examples["a"]] == wanted


@pytest.mark.parametrize(("returned", "problem"), [("text", "a value of type str, not Targets"), ("score", "not in ")])
def test_wrong_targets_are_reported(open_worker: Callable[..., Worker], returned: str, problem: str) -> None:
    pool = LocalPool(open_worker(use("a", "Learned", scores=[1], returned=returned)))
    pool.submit(Proposal(7, BASE, {}), record=("a",))
    pool.submit(Proposal(8, BASE, {}))
    error = str(pool.next().error)
    assert error.startswith("ValueError: task a, sample search-0: ")
    assert problem in error
    assert pool.next().error is None


def test_images_are_left_out_with_a_warning(
    open_worker: Callable[..., Worker], caplog: pytest.LogCaptureFixture
) -> None:
    worker = open_worker(use("a", "Pictures", scores=[1, 1]))
    with caplog.at_level(logging.WARNING):
        (example,) = worker.evaluate(BASE, record=("a",)).examples["a"]
    assert example.trained
    assert [record.message for record in caplog.records] == [
        "task a, sample search-1: a prompt has images or sound and is left out of the fit, which learns text only"
    ]


def test_rendered_prompts_are_recorded_as_their_type() -> None:
    """`complete` of a rendered prompt adds no special tokens, and neither does the example."""
    tokenizer = make_family_tokenizer("llama3")
    engine = Talking(tokenizer, lambda prompt: "fine")

    async def ask() -> list[Turn]:
        with recording() as attempts:
            for prompt in ("hello", Rendered("hello")):
                await engine.complete(prompt, Sampling(9))
        return attempts[0].turns

    plain, rendered = asyncio.run(ask())
    assert plain.tokens == (tokenizer.bos_token_id, *rendered.tokens)
