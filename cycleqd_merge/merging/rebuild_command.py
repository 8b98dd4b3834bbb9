"""The first line of `mergekit_config.yml`: the command that rebuilds the model, or the reason why there is none."""

from __future__ import annotations

CONFIGURATION = "mergekit_config.yml"
"""The file of an exported model that rebuilds it."""
_STOCK = "mergekit-yaml"
_EXPANDED = "config.yml"
_EXPAND = f"envsubst < {CONFIGURATION} > {_EXPANDED} && "
NO_COMMAND = "mergekit cannot rebuild this model: "
"""The beginning of the line if there is no command; the reason follows."""


def with_variable_command(configuration: str, written: str) -> str:
    """A configuration with variables in its models' paths, whose command replaces them: stock mergekit does not.

    configuration: the text with the values. written: the text with `${NAME}`.
    """
    if written == configuration or not written.startswith(f"# {_STOCK} "):
        return written
    command, newline, rest = written.removeprefix("# ").partition("\n")
    return f"# {_EXPAND}{command.replace(CONFIGURATION, _EXPANDED)}{newline}{rest}"


def without_variable_command(configuration: str) -> str:
    """The inverse, for a configuration whose models' paths were replaced by portable names."""
    if not configuration.startswith(f"# {_EXPAND}"):
        return configuration
    command, newline, rest = configuration.removeprefix(f"# {_EXPAND}").partition("\n")
    return f"# {command.replace(_EXPANDED, CONFIGURATION, 1)}{newline}{rest}"


def rebuild_command(configuration: str) -> str | None:
    """The command in a configuration's first line; None if mergekit cannot rebuild the model."""
    first = configuration.partition("\n")[0].removeprefix("# ")
    return None if first.startswith(NO_COMMAND) else first
