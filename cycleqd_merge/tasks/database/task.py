"""Task kind `dbbench`: AgentBench's conversations with a database, scored by the answer or by the table left behind."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from cycleqd_merge.bounded import LimitExceeded
from cycleqd_merge.config.tasks import DbbenchTaskConfig
from cycleqd_merge.errors import DataError
from cycleqd_merge.sandbox.slots import Slots
from cycleqd_merge.tasks.attempts import separate_attempt
from cycleqd_merge.tasks.database.opening import open_database, require_database
from cycleqd_merge.tasks.database.problem import DbProblem, read_db_problem
from cycleqd_merge.tasks.database.sample_database import RESULT_LIMIT, SampleDatabase, ServerCrashed
from cycleqd_merge.tasks.database.turns import is_answer, read_statement, write_answer, write_statement
from cycleqd_merge.tasks.limits import note_limit
from cycleqd_merge.tasks.prompting import LaterTurns, Prompt, with_answer
from cycleqd_merge.tasks.protocol import (
    KnownAnswer,
    LanguageModel,
    Message,
    Outcome,
    Sample,
    Sampling,
    Targets,
    TaskSplit,
)
from cycleqd_merge.tasks.splits import place_of, read_splits
from cycleqd_merge.tasks.targets import gold_targets

log = logging.getLogger(__name__)

_THREADS = 16
"""Number of statements at once."""
_Result = TypeVar("_Result")


class DbbenchTask:
    """A `Task` built from its definition.

    Raises:
        DataError: rows cannot be read, or are not in AgentBench's format.
        RecipeError: a template is not valid.
    """

    semantics = 1

    def __init__(self, definition: DbbenchTaskConfig) -> None:
        self._definition = definition
        self._samples = read_splits(definition.data)
        self._prompt = Prompt(definition)
        self._sampling = Sampling(definition.max_new_tokens, definition.temperature, tuple(definition.stop))
        self._problems = {sample.id: self._problem(sample) for samples in self._samples.values() for sample in samples}
        self._threads = ThreadPoolExecutor(_THREADS, "dbbench")
        self._alone = Slots(1)

    def _problem(self, sample: Sample) -> DbProblem:
        try:
            self.prompt_of(sample)
            return read_db_problem(sample.row)
        except DataError as error:
            raise DataError(f"{place_of(sample)}: {error}") from error

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
        with suppress(ServerCrashed), separate_attempt():
            return await self._play(sample, model, alone=False)
        with suppress(ServerCrashed):  # another sample may have been the reason
            async with self._alone.slot():
                with separate_attempt():
                    return await self._play(sample, model, alone=True)
        log.warning("row %s: the model's statements make the database server crash; the row scores 0", sample.id)
        note_limit("the database", LimitExceeded("server crashed"))
        return Outcome(0.0, "", False)

    async def _play(self, sample: Sample, model: LanguageModel, alone: bool) -> Outcome:
        """One conversation, and its grade. alone: on a database server of its own."""
        kind, seconds, problem = self._definition.database, self._definition.seconds, self._problems[sample.id]
        try:
            database = await self._in_thread(open_database, kind, problem.table, seconds, alone)
        except DataError as error:
            raise DataError(f"row {sample.id}: {error}") from error
        try:
            last_turn, truncated = await self._converse(sample, model, database)
            if problem.is_write:
                right = await self._in_thread(database.digest) == problem.digest
            else:
                right = is_answer(last_turn, problem.label)
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

    def targets(self, sample: Sample, outcome: Outcome) -> Targets | None:
        """The model's turns, or those of a gold conversation if the definition asks for it."""
        return Targets(outcome.score) if self._definition.fit == "answers" else gold_targets(self, sample)

    def reference_of(self, sample: Sample) -> str:
        """The answer as a list, or a statement that makes the change."""
        problem = self._problems[sample.id]
        return problem.label[0] if problem.is_write else json.dumps(problem.label, ensure_ascii=False)

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
        problem, other = self._problems[sample.id], self._other_label(sample)
        gold = problem.label
        if problem.is_write:
            known = [
                ("gold", gold[0]),
                *([("another sample's answer", other[0])] if other else []),
                ("one value changed", _change_value(gold[0])),
            ]
            return [*(KnownAnswer(name, name == "gold", operate(text)) for name, text in known), idle, empty]
        changed = [_change(gold[0]), *gold[1:]]
        stated = [
            ("gold", gold),
            *([("another sample's answer", other)] if other else []),
            ("one value changed", changed),
        ]
        replies = [KnownAnswer(name, name == "gold", answer(values)) for name, values in stated]
        return [*replies, idle, empty]

    def _other_label(self, sample: Sample) -> tuple[str, ...] | None:
        """The label of the next sample of the same form that has a different answer, if there is one."""
        problem, ids = self._problems[sample.id], list(self._problems)
        place = ids.index(sample.id)
        for other in (self._problems[each] for each in (*ids[place + 1 :], *ids[:place])):
            equal = is_answer(write_answer(other.label), problem.label)
            if other.is_write == problem.is_write and not equal:
                return other.label
        return None


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
