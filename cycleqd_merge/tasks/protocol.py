"""The interface between tasks and models.

A task is a class with the methods of `Task`; it may also implement `Prompting`, `Fittable`, `NeedsEnvironment` and
`Checkable`. It never knows which engine it runs on: engines implement `LanguageModel`. Import these names from
`cycleqd_merge.plugins`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

TaskSplit = Literal["search", "heldout"]
"""The two splits of a task. A run searches on `search`; it scores `heldout` only at the end."""

Split = Literal["search", "confirm", "heldout"]
"""The three splits of a run: it reserves a share of a task's search split to confirm its elites."""

SPLIT_NAMES: Mapping[str, str] = {
    "search": "search split",
    "confirm": "confirmation split",
    "heldout": "held-out split",
}
"""Names of the splits in texts for people."""

Message = Mapping[str, Any]
"""One turn of a chat: `role` ("system", "user" or "assistant") and `content`, which is text or a list of content parts
(text, image) as the model's chat template takes them."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is decoded.

    max_new_tokens: longest answer, in tokens. temperature: 0 is greedy decoding. stop: strings that end the answer;
    they are cut off. They match only the answer, never the prompt, and may contain special tokens; empty ones are
    dropped. seed: of the random draws, if the temperature is above 0; give requests for several answers to one prompt
    different seeds.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        object.__setattr__(self, "stop", tuple(string for string in stop if string))  # requests are grouped by equality


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer.

    text: without the prompt, special tokens and stop string. tokens: the number of tokens generated, without the end
    token, but with those of a stop string. truncated: the answer was cut off at `max_new_tokens` or at the end of the
    model's context; after a prompt that fills the context, it is empty.
    """

    text: str
    tokens: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely a continuation is after a prompt.

    logprobs: the log-probability (natural logarithm) of each of its tokens. greedy: whether each of its tokens is the
    most likely one, so that greedy decoding would generate exactly this continuation.
    """

    logprobs: tuple[float, ...]
    greedy: bool


class LanguageModel(Protocol):
    """A loaded model. Any number of requests may be awaited at once; they share batches."""

    async def chat(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Completion:
        """Answer a conversation. If its last turn is the assistant's, the answer continues that turn.

        template: a Jinja chat template to use instead of the model's own. variables: values for the template, such as
        `{"enable_thinking": False}`. A conversation that fills the model's context, or on which the template exceeds
        its limit of time or memory, is answered by an empty text that is marked as truncated.

        Raises:
            UserError: the model has no chat template, or the template rejects these turns.
        """
        ...

    async def complete(self, prompt: str, sampling: Sampling) -> Completion:
        """Continue a plain or rendered prompt."""
        ...

    async def logprobs(
        self, prompt: str | Sequence[Message], continuation: str, template: str | None = None
    ) -> list[float]:
        """Log-probability (natural logarithm) of each token of `continuation` after `prompt`.

        template: as in `chat`, for a prompt of chat turns.

        Raises:
            UserError: as `chat`.
        """
        ...

    async def likelihood(self, prompt: str, continuation: str) -> Likelihood:
        """Log-probabilities of `continuation`, and whether greedy decoding would generate it.

        prompt: plain or rendered text.
        """
        ...

    def render(
        self, messages: Sequence[Message], template: str | None = None, variables: Mapping[str, Any] | None = None
    ) -> str:
        """The prompt that `chat` completes for a conversation, as text for `complete` and `likelihood`.

        Pass it on unchanged: it is marked as rendered, so that no special tokens are added to it.

        Raises:
            UserError: as `chat`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """A row of a dataset, as a task scores it.

    id: unique within the task, and the same in every run over the same data. row: the row's columns, or any other data
    that the task needs.
    """

    id: str
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one sample.

    score: from 0 to 1, higher is better; True is 1 and False is 0, and any other value fails the evaluation. output:
    the model's text, which `task check --json` reports. truncated: an answer was cut off at its token limit or at the
    end of the model's context. limits: what of the grading exceeded a limit and counts as wrong, such as "a regular
    expression exceeded the limit of CPU time". tokens: the number of tokens that the model generated for the sample;
    the worker counts them, a task leaves it out.
    """

    score: float
    output: str = ""
    truncated: bool = False
    limits: tuple[str, ...] = ()
    tokens: int = 0


class Task(Protocol):
    """Samples, divided once and for all into a search and a held-out split, and a way to score a model on each.

    A task may have an integer attribute `semantics`, the version of its scoring; without it, the version is 0. Increase
    it with every change that can alter a score: a run is never extended across versions (see docs/compatibility.md).
    """

    def samples(self, split: TaskSplit) -> Sequence[Sample]:
        """The samples of a split: at least one, and always the same ones in the same order."""
        ...

    async def score(self, sample: Sample, model: LanguageModel) -> Outcome:
        """Let the model work on a sample, and grade the result.

        It may await the model any number of times. All samples of all tasks are scored at once on one event loop: use
        `asyncio.to_thread` for calls that block. Treat the model's output as hostile: never `eval` it, and run its code
        only in a sandbox.

        Raises:
            InfrastructureError: a sandbox, database or disk failed. The run pauses, and this is never turned into a
                score. An `OSError` counts as such a failure, too.
            UserError: the task cannot be used as it is defined; the run ends.
            Exception: any other error fails the evaluation of this model, which is retried once and then recorded.
        """
        ...


@runtime_checkable
class Prompting(Protocol):
    """A task whose prompts do not depend on the model's answers: they are checked before a run."""

    def prompt_of(self, sample: Sample) -> str | Sequence[Message]:
        """A sample's prompt: plain text, or the chat turns that open its conversation."""
        ...


@runtime_checkable
class Referenced(Protocol):
    """A task that can show the correct answer to a sample, for `task show`."""

    def reference_of(self, sample: Sample) -> str:
        """The reference answer, or what decides whether an answer is right."""
        ...


@dataclass(frozen=True, slots=True)
class Targets:
    """What a fit learns from a sample: by default the answers that the expert generated, in all of its turns.

    score: of these answers, from 0 to 1; a fit may select samples by it. continuations: instead of answers, these texts
    whose likelihoods the task asked for, each with its prompt (None: any prompt). gold: a scripted model, as
    `KnownAnswer.reply`, whose answers are learned instead of the expert's.
    """

    score: float = 1.0
    continuations: tuple[tuple[str | None, str], ...] = ()
    gold: Callable[[str | Sequence[Message]], str] | None = None


@runtime_checkable
class Fittable(Protocol):
    """A task whose samples a fit can learn from: other tasks are left out of it."""

    def targets(self, sample: Sample, outcome: Outcome) -> Targets | None:
        """What to learn from a sample, given an expert's outcome; None: nothing."""
        ...


@runtime_checkable
class NeedsEnvironment(Protocol):
    """A task that needs something besides the model, such as a sandbox or a database."""

    def environment(self) -> str:
        """One line, for `plan`, about what the task will run on. Called before a run, never during it.

        Raises:
            TaskError: it is missing or does not work; the message names the command that installs it.
        """
        ...


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """A scripted answer to a sample, to check the task's grader with.

    name: the kind of answer, the same for all samples ("gold", "empty"). right: whether it must score 1, or below 1.
    reply: replaces the model; it receives the prompt (text, or the chat's turns so far) and returns the next answer.
    """

    name: str
    right: bool
    reply: Callable[[str | Sequence[Message]], str]


@runtime_checkable
class Checkable(Protocol):
    """A task that knows right and wrong answers to its samples, so that `task check` can check its grader."""

    def known_answers(self, sample: Sample) -> Sequence[KnownAnswer]:
        """The right answer, and near misses that must not be accepted."""
        ...
