"""Errors meant for users: one line each that states where the problem is, what is wrong and what to do.

    CycleQDError
    |- UserError             the input is wrong; nothing was evaluated (exit code 2)
    |  |- RecipeError        recipe, task file, command-line argument or run directory
    |  |- ModelError         base model, expert, adapter, tokenizer, merge configuration
    |  |- TaskError          a task cannot be opened or used as it is defined
    |  |- DataError          rows of a dataset
    |  `- HubRefused         also a HubError: repository missing, no access, no token, or the Hub cannot be reached
    |- RunFailed             the run cannot continue although its input was accepted (exit code 1)
    |  |- InfrastructureError  disk, sandbox, database, cluster, GPU memory: never turned into a score
    |  `- HubFailed          also a HubError: a push failed, or the Hub cannot be reached during one
    |- HubError              either of the two Hub errors
    `- Interrupted           ended early by the user, the system or the time limit; can be resumed (exit code 130)

`except CycleQDError` catches all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

_LONGEST_LINE = 1400
"""Characters of a message's line."""


def first_line(error: BaseException) -> str:
    """The first non-blank line of an error's message, or the name of its class if the message is empty."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from or during, and so on."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def brief(text: str, most: int = 200) -> str:
    """A text from a stranger, for a message: cut after `most` characters."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def printable(text: str) -> str:
    """A text as one that cannot control a terminal: control and direction characters are written as escapes."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


class CycleQDError(Exception):
    """Base of every error that this package raises on purpose. Whatever its message quotes can be printed."""

    def __str__(self) -> str:
        return "\n".join(brief(printable(line), _LONGEST_LINE) for line in super().__str__().split("\n"))


class UserError(CycleQDError):
    """The input is wrong (recipe, models, data, arguments). The command line exits with 2."""


class RecipeError(UserError):
    """A recipe, task file, command-line argument or run directory is not valid."""


class ModelError(UserError):
    """A model, adapter, tokenizer or merge configuration cannot be used."""


class TaskError(UserError):
    """A task cannot be opened, or lacks something that it needs."""


class DataError(UserError):
    """Rows of a dataset cannot be read or used."""


class RunFailed(CycleQDError):
    """The run cannot continue although its input was accepted. The command line exits with 1."""


class InfrastructureError(RunFailed):
    """Disk, sandbox, database or cluster failed during an evaluation: never turned into a score."""


class HubError(CycleQDError):
    """The Hugging Face Hub refused a request, or cannot be reached."""


class HubRefused(HubError, UserError):
    """The Hub has no such repository or revision, denies access, or cannot be reached before a run. Exit code 2."""


class HubFailed(HubError, RunFailed):
    """The Hub failed or cannot be reached; rerun the command to complete the transfer. Exit code 1."""


class Interrupted(CycleQDError):
    """The user, the system or the time limit ended a run before its last generation. Exit code 130."""

    resume_command: str | None = None
    """Command line that resumes the run; None if rerunning the interrupted command does."""
