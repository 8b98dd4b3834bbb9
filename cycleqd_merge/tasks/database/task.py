"""Task kind `dbbench`: AgentBench's conversations with a database, scored by the answer or by the table left behind."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from cycleqd_merge.config.tasks import DbbenchTaskConfig
from cycleqd_merge.errors import DataError
from cycleqd_merge.tasks.database.opening import open_database, require_database
from cycleqd_merge.tasks.database.sample_database import RESULT_LIMIT, SampleDatabase
from cycleqd_merge.tasks.database.table import Table
from cycleqd_merge.tasks.database.turns import is_answer, read_statement, write_answer, write_statement
from cycleqd_merge.tasks.prompting import LaterTurns, Prompt, with_answer
from cycleqd_merge.tasks.protocol import KnownAnswer, LanguageModel, Message, Outcome, Sample, Sampling, TaskSplit
from cycleqd_merge.tasks.splits import read_splits

_WRITES = ("INSERT", "UPDATE", "DELETE")
_THREADS = 16
"""Number of statements at once."""
_Result = TypeVar("_Result")


class DbbenchTask:
    """A `Task` built from its definition.

    Raises:
        DataError: rows cannot be read, or are not in AgentBench's format.
        RecipeError: a template is not valid.
    """

    semantics = 0

    def __init__(self, definition: DbbenchTaskConfig) -> None:
        self._definition = definition
        self._samples = read_splits(definition.data)
        self._prompt = Prompt(definition)
        self._sampling = Sampling(definition.max_new_tokens, definition.temperature, tuple(definition.stop))
        for sample in self._all():
            _require_complete(sample)
            self.prompt_of(sample)
        self._threads = ThreadPoolExecutor(_THREADS, "dbbench")

    def _all(self) -> list[Sample]:
        return [sample for samples in self._samples.values() for sample in samples]

    def samples(self, split: TaskSplit) -> Sequence[Sample]:
        return self._samples[split]

    def environment(self) -> str:
        return require_database(self._definition.database)

    def prompt_of(self, sample: Sample) -> list[Message]:
        """The turns that open a sample's conversation."""
        prompt = self._prompt.render(sample.row)
        assert not isinstance(prompt, str)
        return prompt

    @property
    def later_turns(self) -> LaterTurns:
        """What follows a conversation's first prompt."""
        return LaterTurns(self._definition.rounds + 1, RESULT_LIMIT, "`max_new_tokens` or `rounds`")

    async def score(self, sample: Sample, model: LanguageModel) -> Outcome:
        kind, seconds = self._definition.database, self._definition.seconds
        database = await self._in_thread(open_database, kind, Table.of(sample.row["table"]), seconds)
        try:
            last_turn, truncated = await self._converse(sample, model, database)
            if _is_write(sample):
                right = await self._in_thread(database.digest) == sample.row["answer_md5"]
            else:
                right = is_answer(last_turn, sample.row["label"])
        finally:
            await self._in_thread(database.close)
        return Outcome(float(right), last_turn, truncated)

    async def _converse(self, sample: Sample, model: LanguageModel, database: SampleDatabase) -> tuple[str, bool]:
        """Let the model run statements until it does something else.

        Returns its last turn, and whether any turn was cut off at the token limit.
        """
        messages, truncated = self.prompt_of(sample), False
        for rounds_left in range(self._definition.rounds, -1, -1):
            turn = await self._prompt.ask(model, messages, self._sampling)
            truncated |= turn.truncated
            messages = with_answer(messages, turn.text)
            answer = str(messages[-1]["content"])
            statement = read_statement(answer)  # none in an empty answer: the context is full
            if statement is None or not rounds_left:
                break
            result = await self._in_thread(database.execute, statement)
            messages.append({"role": "user", "content": result})
        return answer, truncated

    async def _in_thread(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def known_answers(self, sample: Sample) -> Sequence[KnownAnswer]:
        """The gold answer; another sample's, the gold one with a value changed, an idle answer and an empty one."""
        opening = len(self.prompt_of(sample))

        def operate(statement: str) -> Callable[[Any], str]:
            action = write_statement(statement)
            return lambda messages: action if len(messages) == opening else write_answer(["done"])

        def answer(values: Sequence[str]) -> Callable[[Any], str]:
            return lambda _: write_answer(values)

        idle = KnownAnswer("idle answer", False, answer(["done"]))
        empty = KnownAnswer("empty", False, lambda _: "")
        gold, other = sample.row["label"], self._other(sample).row["label"]
        if _is_write(sample):
            known = [
                ("gold", gold[0]),
                ("another sample's answer", other[0]),
                ("one value changed", _change_value(gold[0])),
            ]
            return [*(KnownAnswer(name, name == "gold", operate(text)) for name, text in known), idle, empty]
        changed = [_change(gold[0]), *gold[1:]]
        stated = [("gold", gold), ("another sample's answer", other), ("one value changed", changed)]
        replies = [KnownAnswer(name, name == "gold", answer(values)) for name, values in stated]
        return [*replies, idle, empty]

    def _other(self, sample: Sample) -> Sample:
        """The next sample of the same form that has a different answer."""
        samples = self._all()
        place = samples.index(sample)
        for other in (*samples[place + 1 :], *samples[:place]):
            equal = is_answer(write_answer(other.row["label"]), sample.row["label"])
            if _is_write(other) == _is_write(sample) and not equal:
                return other
        raise DataError("all samples have the same answer; the grader cannot be checked with them")


def _change(value: str) -> str:
    """A different answer: a number plus one, or a longer text."""
    try:
        return str(float(value) + 1)
    except ValueError:
        return f"{value}x"


def _change_value(statement: str) -> str:
    """A statement with its first value changed."""
    return re.sub(r"'((?:[^'\\]|''|\\.)*)'|\"((?:[^\"\\]|\"\"|\\.)*)\"|(?<![\w`])\d+", _longer, statement, count=1)


def _longer(value: re.Match[str]) -> str:
    text = value.group()
    return f"{text}1" if text.isdigit() else f"{text[:-1]}x{text[-1]}"


def _is_write(sample: Sample) -> bool:
    return sample.row["type"][0] in _WRITES


def _require_complete(sample: Sample) -> None:
    """Check that a row has everything that scoring requires.

    Raises:
        DataError: something is missing.
    """
    try:
        Table.of(sample.row["table"])
        label, key = sample.row["label"], "answer_md5" if _is_write(sample) else "label"
        if not label or not all(isinstance(value, str) for value in label) or not sample.row[key]:
            raise DataError(f"{key}: expected a value")
    except (KeyError, IndexError, TypeError, DataError) as error:
        raise DataError(f"row {sample.id} is not in AgentBench's format: {error}") from None
