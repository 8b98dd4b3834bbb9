"""The errors that a user is meant to read: one line each, what is wrong, where, what to do."""


class UserError(Exception):
    """The input is wrong (recipe, models, data, arguments). The command line exits with 2."""


class RunFailed(Exception):
    """The run cannot go on although its input was accepted. The command line exits with 1."""


class EnvironmentFailed(RunFailed):
    """The surroundings of an evaluation failed (disk, sandbox, database): never turned into a score."""


class Interrupted(Exception):
    """The user, the system or the time limit ended a run before its last generation; it can go on. Exit code 130."""


class HubFailed(RunFailed):
    """The Hub refused, or cannot be reached; what was to be published can be pushed again. Exit code 1."""
