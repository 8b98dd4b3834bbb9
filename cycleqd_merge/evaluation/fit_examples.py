"""Examples for a fit, from the requests that were recorded while a task scored a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cycleqd_merge.evaluation.engines.engine import Engine
from cycleqd_merge.fitting.examples import Example
from cycleqd_merge.tasks.attempts import Attempt, Turn, recording
from cycleqd_merge.tasks.check import ScriptedModel
from cycleqd_merge.tasks.protocol import Completion, Message, Sample, Sampling, Targets, Task


async def examples_of(
    task: Task, sample: Sample, targets: Targets | None, attempts: Sequence[Attempt], engine: Engine
) -> tuple[Example, ...]:
    """The examples of a sample. attempts: recorded while an expert worked on it."""
    if targets is None:
        return ()
    if targets.gold is not None:
        with recording() as attempts:
            await task.score(sample, _GoldModel(targets.gold, engine))
        written = (example for each in attempts for example in conversations(each.turns, targets.score))
        return tuple(dict.fromkeys(written))  # several answers to a sample are the same gold one
    if targets.continuations:
        turns = [turn for attempt in attempts for turn in attempt.turns]
        found = [_continuation(turns, *wanted, targets.score) for wanted in dict.fromkeys(targets.continuations)]
        return tuple(example for example in found if example is not None)
    return tuple(
        example
        for attempt in attempts
        for example in conversations(attempt.turns, targets.score if attempt.score is None else attempt.score)
    )


def conversations(turns: Sequence[Turn], score: float) -> list[Example]:
    """The answers of an attempt: a turn whose prompt begins with all tokens of the turn before continues its example.

    Otherwise, as where a template drops earlier thoughts, it is an example of its own.
    """
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for turn in turns:
        start = len(turn.tokens) - turn.answered
        if turn.continuation is not None or not turn.answered:
            continue
        trained = tuple(range(max(start, 1), len(turn.tokens)))
        if found and turn.tokens[: min(start, len(found[-1][0]))] == found[-1][0]:
            trained = found.pop()[1] + trained
        found.append((turn.tokens, trained))
    return [Example(tokens, trained, score=score) for tokens, trained in found if trained]


def _continuation(turns: Sequence[Turn], prompt: str | None, continuation: str, score: float) -> Example | None:
    """The example of the first request for a continuation's likelihood, after this prompt (None: after any)."""
    for turn in turns:
        if turn.continuation == continuation and prompt in (None, turn.prompt):
            places = tuple(range(max(len(turn.tokens) - turn.answered, 1), len(turn.tokens)))
            return Example(turn.tokens, places, score=score) if places else None
    return None


@dataclass(frozen=True)
class _GoldModel(ScriptedModel):
    """A scripted model whose answers the engine encodes and records, after prompts rendered as for its own answers."""

    engine: Engine

    async def chat(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Completion:
        return self.engine.write(self.render(messages, template, variables), self.reply(messages), sampling)

    async def complete(self, prompt: str | Sequence[Message], sampling: Sampling) -> Completion:
        assert isinstance(prompt, str)
        return self.engine.write(prompt, self.reply(prompt), sampling)

    def render(
        self, messages: Sequence[Message], template: str | None = None, variables: Mapping[str, Any] | None = None
    ) -> str:
        return self.engine.render(messages, template, variables)
