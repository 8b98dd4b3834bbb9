"""Task kind `code`: the model writes a function, whose return values are compared with the reference solution's.

Functions run in a sandbox, on the inputs of EvalPlus.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Sequence
from math import comb
from typing import Any, ParamSpec, TypeVar

from cycleqd_merge import bounded
from cycleqd_merge.bounded import Bounds, LimitExceeded
from cycleqd_merge.config.tasks import CodeTaskConfig
from cycleqd_merge.errors import DataError, TaskError
from cycleqd_merge.sandbox.protocol import MIB, Limits, RootFs
from cycleqd_merge.sandbox.providers import Sandbox, sandbox_for
from cycleqd_merge.sandbox.slots import Slots
from cycleqd_merge.tasks.attempts import separate_attempt
from cycleqd_merge.tasks.code.execution import expected_values, returned_values
from cycleqd_merge.tasks.code.extract import extract_program
from cycleqd_merge.tasks.code.grading import all_correct
from cycleqd_merge.tasks.code.problems import CodeProblem, read_code_problem
from cycleqd_merge.tasks.limits import note_limit
from cycleqd_merge.tasks.prompting import Prompt
from cycleqd_merge.tasks.protocol import (
    Completion,
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

_HOST_FILES = RootFs()
_BOUNDS = Bounds(seconds=20.0, memory=4 * 2**30)
"""Limits of reading a program and of grading: hostile values can take hours to build, such as numbers of one hash."""
_P = ParamSpec("_P")
_T = TypeVar("_T")


class CodeTask:
    """A `Task` built from its definition.

    Raises:
        DataError: rows cannot be read, or are not problems in EvalPlus' format.
        RecipeError: a template is not valid.
        TaskError: the metric is `base`, and the rows do not separate base inputs.
    """

    semantics = 2

    def __init__(self, definition: CodeTaskConfig) -> None:
        self._definition = definition
        self._samples = read_splits(definition.data, lambda row: str(row.get("task_id", "")))
        self._prompt = Prompt(definition)
        self._problems = {sample.id: self._problem(sample) for sample in self._all()}
        self._slots = Slots(os.cpu_count() or 1)

    def _all(self) -> list[Sample]:
        return [sample for samples in self._samples.values() for sample in samples]

    def _problem(self, sample: Sample) -> CodeProblem:
        try:
            problem = read_code_problem(sample.row)
            self._prompt.render(problem.columns)
        except DataError as error:
            raise DataError(f"{place_of(sample)}: {error}") from error
        if not problem.base_inputs and self._definition.metric == "base":
            raise TaskError(f"metric: {problem.task_id} has no separate base inputs; use `metric: plus`")
        return problem

    def samples(self, split: TaskSplit) -> Sequence[Sample]:
        return self._samples[split]

    def environment(self) -> str:
        return sandbox_for(_HOST_FILES).description

    def prompt_of(self, sample: Sample) -> str | list[Message]:
        """The rendered prompt: plain text, or chat turns."""
        return self._prompt.render(self._problems[sample.id].columns)

    async def score(self, sample: Sample, model: LanguageModel) -> Outcome:
        definition, problem = self._definition, self._problems[sample.id]
        samplings = [
            Sampling(definition.max_new_tokens, definition.temperature, tuple(definition.stop), seed)
            for seed in range(definition.answers)
        ]
        attempts = await asyncio.gather(*(self._attempt(problem, model, sampling) for sampling in samplings))
        completions, passed = zip(*attempts, strict=True)
        score = pass_at(definition.k, len(passed), sum(passed))
        return Outcome(score, completions[0].text, all(completion.truncated for completion in completions))

    async def _attempt(self, problem: CodeProblem, model: LanguageModel, sampling: Sampling) -> tuple[Completion, bool]:
        """An answer, and whether its program is correct."""
        with separate_attempt() as attempt:
            completion = await self._prompt.ask(model, self._prompt.render(problem.columns), sampling)
            prefix = self._prompt.answer_prefix(problem.columns)
            passed = await self._passes(problem, prefix + completion.text)
            attempt.score = float(passed)
        return completion, passed

    async def _passes(self, problem: CodeProblem, answer: str) -> bool:
        """Whether an answer's program is correct on the inputs of the metric."""
        program = await _within_limits(extract_program, answer, problem.entry_point)
        if program is None:
            return False
        sandbox = await asyncio.to_thread(sandbox_for, _HOST_FILES)
        inputs = {"base": problem.base_inputs, "plus": problem.plus_inputs}
        kinds = ("base",) if self._definition.metric == "base" else ("base", "plus")
        for kind in kinds:
            if inputs[kind] and not await self._is_correct(sandbox, problem, program, inputs[kind], kind):
                return False
        return True

    async def _is_correct(
        self, sandbox: Sandbox, problem: CodeProblem, program: str, inputs: Sequence[Any], kind: str
    ) -> bool:
        async with self._slots.slot():
            expected = await expected_values(sandbox, problem, inputs, kind)
            seconds = self._definition.seconds + 4 * expected.seconds
            output = MIB + 4 * sum(len(text) for text in expected.outputs)
            limits = Limits(memory=self._definition.memory * MIB, output=output, seconds=seconds)
            found = await returned_values(sandbox.provider, program, problem.entry_point, inputs, limits)
        if found is None:
            return False
        names = (problem.task_id, problem.entry_point)
        return await _within_limits(all_correct, *names, inputs, found, expected.outputs, problem.atol) or False

    def targets(self, sample: Sample, outcome: Outcome) -> Targets | None:
        """The reference solution if the definition asks for it, else the model's answers."""
        return Targets(outcome.score) if self._definition.fit == "answers" else gold_targets(self, sample)

    def reference_of(self, sample: Sample) -> str:
        """The reference solution."""
        return self._problems[sample.id].solution

    def known_answers(self, sample: Sample) -> Sequence[KnownAnswer]:
        problem = self._problems[sample.id]
        samples = self._all()
        place = next(place for place, other in enumerate(samples) if other.id == sample.id)
        other = self._problems[samples[place - 1].id]
        names = rf"\b{re.escape(other.entry_point)}\b"
        answers = {
            "gold": problem.solution,
            "another problem's solution": re.sub(names, problem.entry_point, other.solution),
            "one value changed": f"{problem.solution}\n{_CHANGED.replace('ENTRY', problem.entry_point)}",
            "stub": f"def {problem.entry_point}(*arguments):\n    pass\n",
            "empty": "",
        }
        prefix = self._prompt.answer_prefix(problem.columns)
        return [KnownAnswer(name, name == "gold", _reply(program, prefix)) for name, program in answers.items()]


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


def _reply(program: str, prefix: str) -> Callable[[object], str]:
    """A model that answers with a program, continuing the answer's `prefix` in the prompt."""
    if not prefix.strip():
        text = f"```python\n{program}\n```"
    elif "def " in prefix:  # the function's head: it gets a body, and the program then defines the function again
        text = f"\n    pass\n\n\n{program}\n```"
    else:
        text = f"\n{program}\n```"
    return lambda prompt: text


async def _within_limits(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | None:
    """The result of a function of hostile data; None if that makes it take too long, or too much memory."""
    try:
        return await asyncio.to_thread(lambda: bounded.call(_BOUNDS, function, *args, **kwargs))
    except LimitExceeded as error:
        note_limit("reading the program or its results", error)
        return None


def pass_at(k: int, answers: int, correct: int) -> float:
    """Probability that at least one of `k` answers drawn from `answers` is correct (Chen et al., 2021, equation 1)."""
    return 1.0 - comb(answers - correct, k) / comb(answers, k)
