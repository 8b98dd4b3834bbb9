"""The first line of `mergekit_config.yml`: the command that rebuilds the model, or the reason why there is none."""

from __future__ import annotations

NO_COMMAND = "mergekit cannot rebuild this model: "
"""The beginning of the line if there is no command; the reason follows."""


def rebuild_command(configuration: str) -> str | None:
    """The command in a configuration's first line; None if mergekit cannot rebuild the model."""
    first = configuration.partition("\n")[0].removeprefix("# ")
    return None if first.startswith(NO_COMMAND) else first
