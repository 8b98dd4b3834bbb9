"""What a task is, and what it needs of a model. Engines implement `LanguageModel`; tasks never know which one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

TaskSplit = Literal["search", "heldout"]
"""How a task divides its samples."""

Split = Literal["search", "confirm", "heldout"]
"""What a run scores on: it sets a share of the search split aside to confirm its elites."""

Message = Mapping[str, Any]
"""One turn of a chat: `role` and `content`, which is text or a list of content parts (text, image)."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is decoded. Temperature 0 is greedy; `stop` strings end the answer and are cut off."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer. `truncated`: the token limit ended it, not the model."""

    text: str
    tokens: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely a continuation is: the log-probability (natural logarithm) of each of its tokens, and whether each is
    the likeliest one, so that greedy decoding would write just this."""

    logprobs: tuple[float, ...]
    greedy: bool


class LanguageModel(Protocol):
    """A loaded model that answers any number of requests at once."""

    async def chat(self, messages: Sequence[Message], sampling: Sampling, template: str | None = None) -> Completion:
        """Answer a conversation through the model's chat template, or through `template`."""
        ...

    async def complete(self, prompt: str, sampling: Sampling) -> Completion:
        """Continue a plain prompt."""
        ...

    async def logprobs(
        self, prompt: str | Sequence[Message], continuation: str, template: str | None = None
    ) -> list[float]:
        """Log-probability (natural logarithm) of each token of `continuation` after `prompt`."""
        ...

    async def likelihood(self, prompt: str, continuation: str) -> Likelihood:
        """The same of a plain or rendered prompt, and whether greedy decoding would write `continuation`."""
        ...

    def render(self, messages: Sequence[Message], template: str | None = None) -> str:
        """A conversation as the prompt that `chat` would complete; a last turn of the assistant's is left open.

        `complete` and `likelihood` take it as it is, and add no special tokens to it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a task. `id` is the same in every run over the same data."""

    id: str
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A sample's score in [0, 1], with what the model said for reports."""

    score: float
    output: str = ""
    truncated: bool = False


class Task(Protocol):
    """A set of samples, divided once and for all into search and held-out, and the way to score one.

    Scoring may await the model and its surroundings as often as it likes; all samples of all tasks run at once.
    It raises `InfrastructureError` if the surroundings fail; such a failure is never turned into a score.
    """

    def samples(self, split: TaskSplit) -> Sequence[Sample]:
        """The samples of a split, always in the same order."""
        ...

    async def score(self, sample: Sample, model: LanguageModel) -> Outcome:
        """Let the model work on a sample and grade it."""
        ...


@runtime_checkable
class Prompting(Protocol):
    """A task whose prompts are known before a model is asked, so that they can be checked before a run."""

    def prompt_of(self, sample: Sample) -> str | Sequence[Message]:
        """The prompt of a sample: plain text, or the chat turns that it begins with."""
        ...


@runtime_checkable
class NeedsEnvironment(Protocol):
    """A task that works on something beside the model: a sandbox, a database."""

    def environment(self) -> str:
        """What was found to work on, in one line for `plan`; asked before a run, never during it.

        Raises:
            UserError: it is missing or does not work; the message names the command that installs it.
        """
        ...


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """What a model could say to a sample, and whether a grader must accept it.

    name: the same for all samples ("gold", "empty", "another sample's answer"). reply: a model by its function, which
    gets the prompt (the text, or the turns of the chat so far) and returns the next answer.
    """

    name: str
    right: bool
    reply: Callable[[str | Sequence[Message]], str]


@runtime_checkable
class Checkable(Protocol):
    """A task that knows right and wrong answers to its own samples, so that its grader can prove itself."""

    def known_answers(self, sample: Sample) -> Sequence[KnownAnswer]:
        """The gold answer, and near misses that must not be accepted."""
        ...
