"""The first line of `mergekit_config.yml`: the command that rebuilds the model, or the reason why there is none."""

from __future__ import annotations

import re
from collections import Counter

from cycleqd_merge.config.variables import names_in

CONFIGURATION = "mergekit_config.yml"
"""The file of an exported model that rebuilds it."""
STOCK = "mergekit-yaml"
_EXPANDED = "config.yml"
_EXPAND = re.compile(rf"# envsubst '[^']*' < {re.escape(CONFIGURATION)} > {re.escape(_EXPANDED)} && ")
NO_COMMAND = "mergekit cannot rebuild this model: "
"""The beginning of the line if there is no command; the reason follows."""


def with_variable_command(configuration: str, written: str) -> str:
    """A configuration with variables in its models' paths, whose command replaces them: stock mergekit does not.

    It replaces no other variables, because a chat template that somebody else wrote may name some.

    configuration: the text with the values. written: the text with `${NAME}`.
    """
    if written == configuration or not written.startswith(f"# {STOCK} "):
        return written
    command, newline, rest = written.removeprefix("# ").partition("\n")
    added = sorted(Counter(names_in(written)) - Counter(names_in(configuration)))
    variables = " ".join(f"${{{name}}}" for name in added)
    expand = f"envsubst '{variables}' < {CONFIGURATION} > {_EXPANDED} && "
    return f"# {expand}{command.replace(CONFIGURATION, _EXPANDED)}{newline}{rest}"


def without_variable_command(configuration: str) -> str:
    """The inverse, for a configuration whose models' paths were replaced by portable names."""
    found = _EXPAND.match(configuration)
    if found is None:
        return configuration
    command, newline, rest = configuration[found.end() :].partition("\n")
    return f"# {command.replace(_EXPANDED, CONFIGURATION, 1)}{newline}{rest}"


def rebuild_command(configuration: str) -> str | None:
    """The command in a configuration's first line; None if mergekit cannot rebuild the model."""
    first = configuration.partition("\n")[0].removeprefix("# ")
    return None if first.startswith(NO_COMMAND) else first
