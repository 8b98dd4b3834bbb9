"""Task kind `dbbench`: AgentBench's conversations with a database, scored by the answer or by the table they leave."""

from __future__ import annotations

import ast
import asyncio
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from cycleqd_merge.config.tasks import DbbenchTaskConfig
from cycleqd_merge.errors import UserError
from cycleqd_merge.tasks.database.mariadb import require_server, server
from cycleqd_merge.tasks.database.sample_database import MariadbDatabase, SampleDatabase, Table
from cycleqd_merge.tasks.prompting import Prompt
from cycleqd_merge.tasks.protocol import KnownAnswer, LanguageModel, Message, Outcome, Sample, Sampling, TaskSplit
from cycleqd_merge.tasks.rows import divide

_WRITES = ("INSERT", "UPDATE", "DELETE")
_CONNECTIONS = 16
"""Statements at work at once."""
_Answer = TypeVar("_Answer")


class Dbbench:
    """A `Task` built from its definition; `folder` is where relative data paths start.

    Raises:
        UserError: rows cannot be read, or a row is not as in AgentBench.
    """

    def __init__(self, definition: DbbenchTaskConfig) -> None:
        self._definition = definition
        self._samples = divide(definition.data)
        self._prompt = Prompt(definition)
        self._sampling = Sampling(definition.max_new_tokens, definition.temperature, tuple(definition.stop))
        for sample in self._all():
            _require_whole(sample)
            self.prompt_of(sample)
        self._threads = ThreadPoolExecutor(_CONNECTIONS, "dbbench")

    def _all(self) -> list[Sample]:
        return [sample for samples in self._samples.values() for sample in samples]

    def samples(self, split: TaskSplit) -> Sequence[Sample]:
        return self._samples[split]

    def environment(self) -> str:
        if self._definition.database == "sqlite":
            from cycleqd_merge.tasks.database.sqlite import require_sqlite

            return require_sqlite()
        return require_server()

    def prompt_of(self, sample: Sample) -> list[Message]:
        """The turns that a sample's conversation begins with."""
        prompt = self._prompt.of(sample.row)
        assert not isinstance(prompt, str)
        return prompt

    async def score(self, sample: Sample, model: LanguageModel) -> Outcome:
        database = await self._blocking(self._open, Table.of(sample.row["table"]))
        try:
            said, truncated = await self._converse(sample, model, database)
            if _writes(sample):
                right = await self._blocking(database.digest) == sample.row["answer_md5"]
            else:
                right = answers(said, sample.row["label"])
        finally:
            await self._blocking(database.close)
        return Outcome(float(right), said, truncated)

    def _open(self, table: Table) -> SampleDatabase:
        seconds = self._definition.seconds
        if self._definition.database == "sqlite":
            from cycleqd_merge.tasks.database.sqlite import SqliteDatabase

            return SqliteDatabase(table, seconds)
        return MariadbDatabase(server(), table, seconds)

    async def _converse(self, sample: Sample, model: LanguageModel, database: SampleDatabase) -> tuple[str, bool]:
        """Let the model run statements until it does something else; its last turn, and whether one was cut."""
        messages, truncated = self.prompt_of(sample), False
        for further in range(self._definition.rounds, -1, -1):
            turn = await self._prompt.ask(model, messages, self._sampling)
            truncated |= turn.truncated
            statement = statement_of(turn.text)
            if statement is None or not further:
                break
            result = await self._blocking(database.execute, statement)
            messages += [{"role": "assistant", "content": turn.text}, {"role": "user", "content": result}]
        return turn.text, truncated

    async def _blocking(self, function: Callable[..., _Answer], *arguments: Any) -> _Answer:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def known_answers(self, sample: Sample) -> Sequence[KnownAnswer]:
        """The gold answer; another sample's, the gold one with a value changed, an idle one, and none."""
        opening = len(self.prompt_of(sample))

        def operate(statement: str) -> Callable[[Any], str]:
            action = f"Action: Operation\n```sql\n{statement}\n```"
            return lambda messages: action if len(messages) == opening else _answer(["done"])

        def answer(values: Sequence[str]) -> Callable[[Any], str]:
            return lambda _: _answer(values)

        idle = KnownAnswer("idle answer", False, answer(["done"]))
        empty = KnownAnswer("empty", False, lambda _: "")
        gold, other = sample.row["label"], self._other(sample).row["label"]
        if _writes(sample):
            known = [("gold", gold[0]), ("another sample's", other[0]), ("one value changed", _altered(gold[0]))]
            return [*(KnownAnswer(name, name == "gold", operate(text)) for name, text in known), idle, empty]
        changed = [_changed(gold[0]), *gold[1:]]
        stated = [("gold", gold), ("another sample's", other), ("one value changed", changed)]
        replies = [KnownAnswer(name, name == "gold", answer(values)) for name, values in stated]
        return [*replies, idle, empty]

    def _other(self, sample: Sample) -> Sample:
        """The next sample of the same form whose answer is another one."""
        samples = self._all()
        place = samples.index(sample)
        for other in (*samples[place + 1 :], *samples[:place]):
            if _writes(other) == _writes(sample) and not answers(_answer(other.row["label"]), sample.row["label"]):
                return other
        raise UserError("all samples have the same answer; a grader cannot be checked with them")


def statement_of(turn: str) -> str | None:
    """The SQL that a turn asks to run, on one line; None if it asks for no operation or in another form."""
    action = re.search(r"Action: (.*?)\n", turn)
    block = re.search(r"```sql\n([\s\S]*?)\n```", turn)
    if action is None or action.group(1) != "Operation" or block is None:
        return None
    return block.group(1).strip().replace("\n", " ")


def answers(turn: str, label: Sequence[str]) -> bool:
    """Whether a turn's final answer is `label`: one number by its value, one text as it is, several as a set."""
    found = re.search(r"\nFinal Answer:(.*)", turn)
    said = _values(found.group(1) if found else "")
    if len(said) != 1 or len(label) != 1:
        try:
            return set(said) == set(label)
        except TypeError:  # a list of lists
            return False
    try:
        return float(said[0]) == float(label[0])
    except (TypeError, ValueError, OverflowError):
        return bool(said[0] == label[0])


def _values(text: str) -> list[Any]:
    """The values that a final answer lists; text that is no Python literal is one value."""
    try:
        return list(ast.literal_eval(text.strip()))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return [text]


def _answer(values: Sequence[str]) -> str:
    return f"Action: Answer\nFinal Answer: {json.dumps(values, ensure_ascii=False)}"


def _changed(value: str) -> str:
    try:
        return str(float(value) + 1)
    except ValueError:
        return f"{value}x"


def _altered(statement: str) -> str:
    """A statement with its first value changed."""
    return re.sub(r"'((?:[^'\\]|''|\\.)*)'|\"((?:[^\"\\]|\"\"|\\.)*)\"|(?<![\w`])\d+", _longer, statement, count=1)


def _longer(value: re.Match[str]) -> str:
    text = value.group()
    return f"{text}1" if text.isdigit() else f"{text[:-1]}x{text[-1]}"


def _writes(sample: Sample) -> bool:
    return sample.row["type"][0] in _WRITES


def _require_whole(sample: Sample) -> None:
    """Check that a row has what scoring it needs.

    Raises:
        UserError: it has not.
    """
    try:
        Table.of(sample.row["table"])
        label, key = sample.row["label"], "answer_md5" if _writes(sample) else "label"
        if not label or not all(isinstance(value, str) for value in label) or not sample.row[key]:
            raise UserError(f"{key}: expected a value")
    except (KeyError, IndexError, TypeError, UserError) as error:
        raise UserError(f"row {sample.id} is not as in AgentBench: {error}") from None
