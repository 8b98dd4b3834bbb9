"""How an answer is scored against its reference."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from cycleqd_merge.config.values import LARGE, PythonTargetConfig, RegularExpression, StrictConfig


class ExactScorerConfig(StrictConfig):
    """1 if the answer equals the reference after normalisation, else 0."""

    kind: Literal["exact"]
    pattern: RegularExpression | None = None
    """A regular expression; its last match in the output (first group, if it has one) is the answer."""
    lowercase: bool = False
    """Compare in lower case."""
    squeeze: bool = False
    """Replace runs of white space by one space."""
    replace: dict[str, str] = Field(default_factory=dict)
    """Replacements in both texts, in order, after `lowercase`."""
    strip: str | None = None
    """Characters stripped from both ends, besides white space."""
    first_line: bool = False
    """Use only the first line of the output."""


class TokenF1ScorerConfig(StrictConfig):
    """F1 over the multisets of white-space separated tokens."""

    kind: Literal["token_f1"]
    lowercase: bool = False
    """Compare in lower case."""
    first_line: bool = False
    """Use only the first line of the output."""


class NumberScorerConfig(StrictConfig):
    """1 if a number read from the output equals the reference number, else 0."""

    kind: Literal["number"]
    pattern: RegularExpression | None = None
    """A regular expression; its last match in the output (first group, if it has one) is searched for the number
    instead of the whole output."""
    tolerance: float = Field(0.0, ge=0, le=LARGE)
    """Largest absolute difference that still counts as equal."""


class RegexScorerConfig(StrictConfig):
    """1 if the reference, taken as a regular expression, is found in the output, else 0."""

    kind: Literal["regex"]
    full: bool = False
    """The regular expression must match the whole output."""


def _choices_form(value: Any) -> str:
    return "column" if isinstance(value, str) else "list"


Choices = Annotated[
    Annotated[str, Tag("column")] | Annotated[list[str], Field(min_length=1), Tag("list")], Discriminator(_choices_form)
]


class MultipleChoiceScorerConfig(StrictConfig):
    """1 if the reference choice has the highest log-likelihood after the prompt, else 0."""

    kind: Literal["multiple_choice"]
    choices: Choices
    """The choices, or the column that holds a row's list of choices."""
    normalise: Literal["none", "tokens", "characters"] = "none"
    """Divide a choice's log-likelihood by its length in tokens or characters."""


class PythonScorerConfig(PythonTargetConfig):
    """Your own function of the output and the reference answer, both text; it returns a score in [0, 1]."""

    kind: Literal["python"]


ScorerConfig = Annotated[
    ExactScorerConfig
    | TokenF1ScorerConfig
    | NumberScorerConfig
    | RegexScorerConfig
    | MultipleChoiceScorerConfig
    | PythonScorerConfig,
    Field(discriminator="kind"),
]
