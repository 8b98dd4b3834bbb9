"""Task kind `generate`: a prompt and a reference answer per row."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cycleqd_merge.config.scorers import MultipleChoiceScorerConfig, PythonScorerConfig
from cycleqd_merge.config.tasks import GenerateTaskConfig
from cycleqd_merge.config.validation_errors import short_repr
from cycleqd_merge.errors import DataError
from cycleqd_merge.tasks.generate_answers import known_choices, known_texts
from cycleqd_merge.tasks.prompting import Prompt, parse_template, render_template
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
from cycleqd_merge.tasks.references import reference_problem
from cycleqd_merge.tasks.scorers import text_scorer, uses_patterns
from cycleqd_merge.tasks.splits import place_of, read_splits
from cycleqd_merge.tasks.targets import gold_targets


class GenerateTask:
    """A `Task` built from its definition.

    Raises:
        DataError: rows cannot be read, or a row lacks something that the templates or the scorer require.
        RecipeError: a template is not valid.
        UserError: a `python` scorer cannot be loaded.
    """

    semantics = 1
    """1: numbers are read differently (`scorers.number`); a choice's first token counts after a prompt's last blank."""

    def __init__(self, definition: GenerateTaskConfig) -> None:
        self._definition = definition
        self._prompt = Prompt(definition)
        self._answer = parse_template(definition.answer, "answer")
        self._contents: dict[str, str] = {}
        self._samples = read_splits(definition.data, content=self.content_of, check=self._check_samples)
        if not isinstance(definition.scorer, MultipleChoiceScorerConfig):
            self._scorer = text_scorer(definition.scorer)
        self._sampling = Sampling(definition.max_new_tokens, definition.temperature, tuple(definition.stop))

    def _check_samples(self, samples: Sequence[Sample]) -> None:
        """Check everything that does not need a model; the error shows the first bad row and counts the others."""
        bad: list[tuple[Sample, DataError]] = []
        for sample in samples:
            try:
                self._check(sample)
            except DataError as error:
                bad.append((sample, error))
        if bad:
            (sample, first), others = bad[0], len(bad) - 1
            more = f" (and {others} more)" if others else ""
            raise DataError(f"{place_of(sample)}: {first}; the row is {short_repr(dict(sample.row))}{more}") from first

    def _check(self, sample: Sample) -> None:
        scorer = self._definition.scorer
        if _is_blank(self.prompt_of(sample)):
            raise DataError("prompt: empty; every row requires a prompt")
        reference = self.reference_of(sample)
        if isinstance(scorer, MultipleChoiceScorerConfig):
            choices = _choices(scorer, sample)
            if reference.strip() not in (choice.strip() for choice in choices):
                raise DataError(
                    f"answer: {reference!r} is not among the choices {', '.join(map(repr, choices))}"
                    f"{_choice_hint(reference, scorer.choices, len(choices))}"
                )
        elif (problem := reference_problem(reference, scorer, self._definition.stop)) is not None:
            raise DataError(f"answer: {problem}")

    def samples(self, split: TaskSplit) -> Sequence[Sample]:
        return self._samples[split]

    def prompt_of(self, sample: Sample) -> str | list[Message]:
        """The rendered prompt: plain text, or chat turns."""
        return self._prompt.render(sample.row)

    def reference_of(self, sample: Sample) -> str:
        """The reference answer."""
        return render_template(self._answer, sample.row, "answer")

    def content_of(self, sample: Sample) -> str:
        """Text that is equal for samples with the same prompt, reference and choices in any order.

        Differences in white space do not count.
        """
        if sample.id not in self._contents:
            prompt = self.prompt_of(sample)
            turns = [prompt] if isinstance(prompt, str) else [str(turn["content"]) for turn in prompt]
            texts = [*turns, self.reference_of(sample), *sorted(self.choices_of(sample))]
            self._contents[sample.id] = json.dumps([" ".join(text.split()) for text in texts])
        return self._contents[sample.id]

    def choices_of(self, sample: Sample) -> list[str]:
        """The choices of a multiple-choice task; an empty list if the model generates its answer."""
        scorer = self._definition.scorer
        return _choices(scorer, sample) if isinstance(scorer, MultipleChoiceScorerConfig) else []

    async def score(self, sample: Sample, model: LanguageModel) -> Outcome:
        if isinstance(self._definition.scorer, MultipleChoiceScorerConfig):
            return await self._choose(sample, model, self._definition.scorer)
        completion = await self._prompt.ask(model, self.prompt_of(sample), self._sampling)
        texts = (completion.text, self.reference_of(sample))
        in_thread = uses_patterns(self._definition.scorer)
        score = await asyncio.to_thread(self._scorer, *texts) if in_thread else self._scorer(*texts)
        return Outcome(score, completion.text, completion.truncated)

    def targets(self, sample: Sample, outcome: Outcome) -> Targets | None:
        """The right choice, the gold answer if the definition asks for it, else the model's answer."""
        reference = self.reference_of(sample)
        right = [choice for choice in self.choices_of(sample) if choice.strip() == reference.strip()]
        if right:
            return Targets(continuations=((None, right[0]),))
        if self._definition.fit == "answers":
            return Targets(outcome.score)
        if isinstance(self._definition.scorer, PythonScorerConfig):  # it has no known answers
            return Targets(gold=lambda prompt: reference)
        return gold_targets(self, sample)

    def known_answers(self, sample: Sample) -> Sequence[KnownAnswer]:
        """The reference, and near misses; nothing for a `python` scorer, which alone knows what is right."""
        scorer, reference = self._definition.scorer, self.reference_of(sample)
        if isinstance(scorer, PythonScorerConfig):
            return []
        if isinstance(scorer, MultipleChoiceScorerConfig):
            return known_choices(_choices(scorer, sample), reference)
        samples = [*self._samples["search"], *self._samples["heldout"]]
        start = int(hashlib.sha256(sample.id.encode()).hexdigest(), 16) % len(samples)
        others = (self.reference_of(samples[place % len(samples)]) for place in range(start, start + len(samples)))
        return known_texts(scorer, lambda text: self._scorer(text, reference), reference, others, self._definition.stop)

    async def _choose(self, sample: Sample, model: LanguageModel, scorer: MultipleChoiceScorerConfig) -> Outcome:
        """Score the choice with the highest log-likelihood."""
        prompt = self._prompt.scored(model, self.prompt_of(sample))
        choices = _choices(scorer, sample)
        chat_template = self._definition.chat_template
        scored = await asyncio.gather(*(model.logprobs(prompt, choice, chat_template) for choice in choices))
        lengths = {
            "none": [1] * len(choices),
            "tokens": [len(logprobs) for logprobs in scored],
            "characters": [len(choice) for choice in choices],
        }[scorer.normalise]
        likelihoods = [sum(logprobs) / max(length, 1) for logprobs, length in zip(scored, lengths, strict=True)]
        chosen = choices[max(range(len(choices)), key=likelihoods.__getitem__)]
        return Outcome(float(chosen.strip() == self.reference_of(sample).strip()), chosen)


def _is_blank(prompt: str | list[Message]) -> bool:
    """Whether a prompt asks nothing: it is blank, or all turns of the user are."""
    if isinstance(prompt, str):
        return not prompt.strip()
    asked = [turn for turn in prompt if turn["role"] == "user"] or prompt
    return not any(str(turn["content"]).strip() for turn in asked)


def _choices(scorer: MultipleChoiceScorerConfig, sample: Sample) -> list[str]:
    choices: Any = scorer.choices
    if isinstance(choices, str):
        column, choices = choices, _column(choices, sample.row)
        if isinstance(choices, Mapping) and not any(isinstance(part, list) for part in choices.values()):
            choices = [*choices.values()]  # {"A": "red", "B": "green"}
        if not isinstance(choices, Sequence) or isinstance(choices, str | bytes) or not choices:
            hint = _list_hint(column, choices)
            raise DataError(f"choices: column {column!r} must contain a list of choices; found {choices!r}{hint}")
    for number, choice in enumerate(choices, start=1):
        if choice is None or isinstance(choice, list | Mapping | bytes) or not str(choice).strip():
            kind = "null" if choice is None else short_repr(choice)
            raise DataError(f"choices: choice {number} of {len(choices)} is {kind}; every choice must be a text")
    return [str(choice) for choice in choices]


def _column(name: str, row: Mapping[str, Any]) -> Any:
    """A column, or a part of one: `choices.text`."""
    value: Any = row
    for part in [name] if name in row else name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise DataError(f"choices: no column {name!r}; the row has the columns {', '.join(row)}")
        value = value[part]
    return value


def _list_hint(column: str, value: Any) -> str:
    """Which part of an object is the list of choices, or why there is none."""
    if isinstance(value, str) and value.startswith("["):
        return ", which is text; write the rows as JSONL or Parquet, which have lists"
    lists = [key for key, part in value.items() if isinstance(part, list)] if isinstance(value, Mapping) else []
    return f"; write `choices: {column}.{lists[0]}`" if lists else ""


def _choice_hint(reference: str, column: str | list[str], count: int) -> str:
    """How to turn the number or letter of a choice into its text. column: of the choices."""
    answer = reference.strip()
    if not isinstance(column, str):
        return ""
    if answer.isdecimal():
        return f"; if it is a choice's number, counted from 0, write `answer: '{{{{ {column}[answer | int] }}}}'`"
    if len(answer) == 1 and answer.isalpha():
        letters = (_LETTERS if answer.isupper() else _LETTERS.lower())[:count]
        place = f'"{letters}".index(answer)'
        return f"; if it is a choice's letter, write `answer: '{{{{ {column}[{place}] }}}}'`"
    return ""


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
