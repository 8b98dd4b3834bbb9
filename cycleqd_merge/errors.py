"""The errors that a user is meant to read: one line each, saying where, what is wrong, and what to do.

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


def first_line(error: BaseException) -> str:
    """The first line of an error's text that is not blank; the name of its class where there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class CycleQDError(Exception):
    """Base of every error that this package raises on purpose."""


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
    """A push failed, or the Hub cannot be reached during one; push again to complete it. Exit code 1."""


class Interrupted(CycleQDError):
    """A run was ended before its last generation by the user, the system or its time limit. Exit code 130."""

    resume_command: str | None = None
    """Command line that resumes the run, where that is not the interrupted command itself."""
