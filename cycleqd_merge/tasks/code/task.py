"""Task kind `code`: write a function; it is run in a sandbox on EvalPlus' inputs and compared with the reference."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Sequence
from math import comb
from typing import Any

from cycleqd_merge.config.tasks import CodeTaskConfig
from cycleqd_merge.errors import UserError
from cycleqd_merge.sandbox.protocol import MIB, Limits, Provider, Root
from cycleqd_merge.sandbox.providers import Slots, sandbox_for
from cycleqd_merge.tasks.code.execution import expected, returned
from cycleqd_merge.tasks.code.extract import extract_program
from cycleqd_merge.tasks.code.grading import all_right
from cycleqd_merge.tasks.code.problems import CodeProblem, read_code_problem
from cycleqd_merge.tasks.prompting import Prompt
from cycleqd_merge.tasks.protocol import KnownAnswer, LanguageModel, Message, Outcome, Sample, Sampling, TaskSplit
from cycleqd_merge.tasks.rows import divide

_ROOT = Root()


class Code:
    """A `Task` built from its definition; `folder` is where relative data paths start.

    Raises:
        UserError: rows cannot be read, or are no problems in EvalPlus' format.
    """

    def __init__(self, definition: CodeTaskConfig) -> None:
        self._definition = definition
        self._samples = divide(definition.data, name=lambda row: str(row.get("task_id", "")))
        self._prompt = Prompt(definition)
        self._problems = {sample.id: self._problem(sample) for sample in self._all()}
        self._slots = Slots(os.cpu_count() or 1)

    def _all(self) -> list[Sample]:
        return [sample for samples in self._samples.values() for sample in samples]

    def _problem(self, sample: Sample) -> CodeProblem:
        try:
            problem = read_code_problem(sample.row)
            self._prompt.of(problem.columns)
        except UserError as error:
            raise UserError(f"{error}; in row {sample.id}") from error
        if not problem.base_inputs and self._definition.metric == "base":
            raise UserError(f"metric: {problem.task_id} tells no base inputs apart; use `metric: plus`")
        return problem

    def samples(self, split: TaskSplit) -> Sequence[Sample]:
        return self._samples[split]

    def environment(self) -> str:
        return sandbox_for(_ROOT).description

    def prompt_of(self, sample: Sample) -> str | list[Message]:
        """The rendered prompt: plain text, or chat turns."""
        return self._prompt.of(self._problems[sample.id].columns)

    async def score(self, sample: Sample, model: LanguageModel) -> Outcome:
        definition, problem = self._definition, self._problems[sample.id]
        samplings = [
            Sampling(definition.max_new_tokens, definition.temperature, tuple(definition.stop), seed)
            for seed in range(definition.answers)
        ]
        prompt = self.prompt_of(sample)
        completions = await asyncio.gather(*(self._prompt.ask(model, prompt, sampling) for sampling in samplings))
        begun = self._prompt.begun(problem.columns)
        rights = await asyncio.gather(*(self._passes(problem, begun + completion.text) for completion in completions))
        score = pass_at(definition.k, len(rights), sum(rights))
        return Outcome(score, completions[0].text, all(completion.truncated for completion in completions))

    async def _passes(self, problem: CodeProblem, answer: str) -> bool:
        program = await asyncio.to_thread(extract_program, answer, problem.entry_point)
        provider = (await asyncio.to_thread(sandbox_for, _ROOT)).provider
        inputs = {"base": problem.base_inputs, "plus": problem.plus_inputs}
        kinds = ("base",) if self._definition.metric == "base" else ("base", "plus")
        for kind in kinds:
            if inputs[kind] and not await self._right(provider, problem, program, inputs[kind], kind):
                return False
        return True

    async def _right(
        self, provider: Provider, problem: CodeProblem, program: str, inputs: Sequence[Any], kind: str
    ) -> bool:
        async with self._slots.taken():
            wanted = await expected(provider, problem, inputs, kind)
            seconds = self._definition.seconds + 4 * wanted.seconds
            output = MIB + 4 * sum(len(text) for text in wanted.outputs)
            limits = Limits(memory=self._definition.memory * MIB, output=output, seconds=seconds)
            found = await returned(provider, program, problem.entry_point, inputs, limits)
        if found is None:
            return False
        return await asyncio.to_thread(all_right, problem.entry_point, inputs, found, wanted.outputs, problem.atol)

    def known_answers(self, sample: Sample) -> Sequence[KnownAnswer]:
        problem = self._problems[sample.id]
        samples = self._all()
        place = next(place for place, other in enumerate(samples) if other.id == sample.id)
        other = self._problems[samples[place - 1].id]
        names = rf"\b{re.escape(other.entry_point)}\b"
        answers = {
            "gold": problem.solution,
            "another's solution": re.sub(names, problem.entry_point, other.solution),
            "one value changed": f"{problem.solution}\n{_CHANGED.replace('ENTRY', problem.entry_point)}",
            "stub": f"def {problem.entry_point}(*arguments):\n    pass\n",
            "empty": "",
        }
        begun = self._prompt.begun(problem.columns)
        return [KnownAnswer(name, name == "gold", _saying(program, begun)) for name, program in answers.items()]


_CHANGED = """
def _changed(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float, complex)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, (list, tuple)):
        return type(value)([*value, "x"])
    if isinstance(value, dict):
        return {**value, "x": "x"}
    return {*value, "x"} if isinstance(value, set) else 0 if value is None else None


_right, _depth = ENTRY, [0]


def ENTRY(*arguments):
    _depth[0] += 1
    value = _right(*arguments)
    _depth[0] -= 1
    return value if _depth[0] else _changed(value)
"""


def _saying(program: str, begun: str) -> Callable[[object], str]:
    """A model that answers with this program, behind what the prompt says of the answer already."""
    if not begun.strip():
        text = f"```python\n{program}\n```"
    elif "def " in begun:  # the function's head: it gets a body, and is then defined anew
        text = f"\n    pass\n\n\n{program}\n```"
    else:
        text = f"\n{program}\n```"
    return lambda prompt: text


def pass_at(k: int, answers: int, right: int) -> float:
    """The chance that at least one of `k` answers drawn from these is right (Chen et al., 2021, equation 1)."""
    return 1.0 - comb(answers - right, k) / comb(answers, k)
