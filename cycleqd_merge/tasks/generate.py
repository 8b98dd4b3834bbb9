"""Task kind `generate`: a prompt and a reference answer per row."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from cycleqd_merge.config.scorers import MultipleChoiceScorerConfig, RegexScorerConfig
from cycleqd_merge.config.tasks import GenerateTaskConfig
from cycleqd_merge.config.validation_errors import shown
from cycleqd_merge.errors import UserError
from cycleqd_merge.tasks.prompting import Prompt, rendered, template
from cycleqd_merge.tasks.protocol import LanguageModel, Message, Outcome, Sample, Sampling, TaskSplit
from cycleqd_merge.tasks.rows import divide
from cycleqd_merge.tasks.scorers import text_scorer


class Generate:
    """A `Task` built from its definition; `folder` is where relative data paths start.

    Raises:
        UserError: rows cannot be read, or a row lacks what the templates or the scorer need.
    """

    def __init__(self, definition: GenerateTaskConfig) -> None:
        self._definition = definition
        self._samples = divide(definition.data)
        self._prompt = Prompt(definition)
        self._answer = template(definition.answer, "answer")
        if not isinstance(definition.scorer, MultipleChoiceScorerConfig):
            self._scorer = text_scorer(definition.scorer)
        self._sampling = Sampling(definition.max_new_tokens, definition.temperature, tuple(definition.stop))
        self._check_all()

    def _check_all(self) -> None:
        """Do with every sample what can be done without a model; the first bad one is told, the others counted."""
        bad: list[tuple[Sample, UserError]] = []
        for sample in (sample for samples in self._samples.values() for sample in samples):
            try:
                self._check(sample)
            except UserError as found:
                bad.append((sample, found))
        if bad:
            (sample, error), others = bad[0], len(bad) - 1
            more = f" (and {others} more)" if others else ""
            raise UserError(f"{error}; in row {sample.id}: {shown(dict(sample.row))}{more}") from error

    def _check(self, sample: Sample) -> None:
        scorer = self._definition.scorer
        self.prompt_of(sample)
        reference = self.reference_of(sample)
        if isinstance(scorer, RegexScorerConfig):
            try:
                re.compile(reference)
            except re.error as error:
                raise UserError(f"answer: {reference!r} is not a regular expression: {error}") from None
        if isinstance(scorer, MultipleChoiceScorerConfig):
            choices = _choices(scorer, sample)
            if reference.strip() not in (choice.strip() for choice in choices):
                raise UserError(f"answer: {reference!r} is not among the choices {', '.join(map(repr, choices))}")

    def samples(self, split: TaskSplit) -> Sequence[Sample]:
        return self._samples[split]

    def prompt_of(self, sample: Sample) -> str | list[Message]:
        """The rendered prompt: plain text, or chat turns."""
        return self._prompt.of(sample.row)

    def reference_of(self, sample: Sample) -> str:
        """The reference answer."""
        return rendered(self._answer, sample.row, "answer")

    def choices_of(self, sample: Sample) -> list[str]:
        """What a multiple-choice task lets the model choose from; nothing where the model writes its answer."""
        scorer = self._definition.scorer
        return _choices(scorer, sample) if isinstance(scorer, MultipleChoiceScorerConfig) else []

    async def score(self, sample: Sample, model: LanguageModel) -> Outcome:
        if isinstance(self._definition.scorer, MultipleChoiceScorerConfig):
            return await self._choose(sample, model, self._definition.scorer)
        completion = await self._prompt.ask(model, self.prompt_of(sample), self._sampling)
        score = self._scorer(completion.text, self.reference_of(sample))
        return Outcome(score, completion.text, completion.truncated)

    async def _choose(self, sample: Sample, model: LanguageModel, scorer: MultipleChoiceScorerConfig) -> Outcome:
        prompt = self.prompt_of(sample)
        choices = _choices(scorer, sample)
        template = self._definition.chat_template
        scored = await asyncio.gather(*(model.logprobs(prompt, choice, template) for choice in choices))
        lengths = {
            "none": [1] * len(choices),
            "tokens": [len(logprobs) for logprobs in scored],
            "characters": [len(choice) for choice in choices],
        }[scorer.normalise]
        likelihoods = [sum(logprobs) / max(length, 1) for logprobs, length in zip(scored, lengths, strict=True)]
        chosen = choices[max(range(len(choices)), key=likelihoods.__getitem__)]
        return Outcome(float(chosen.strip() == self.reference_of(sample).strip()), chosen)


def _choices(scorer: MultipleChoiceScorerConfig, sample: Sample) -> list[str]:
    choices: Any = scorer.choices
    if isinstance(choices, str):
        if choices not in sample.row:
            raise UserError(f"choices: rows have no column {choices!r}; they have {', '.join(sample.row)}")
        column, choices = choices, sample.row[choices]
        if not isinstance(choices, Sequence) or isinstance(choices, str) or not choices:
            raise UserError(f"choices: column {column!r} must hold a list of choices; found {choices!r}")
    return [str(choice) for choice in choices]
