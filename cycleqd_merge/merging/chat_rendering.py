"""What runs of chat templates in a child process: a template comes with a model, and may compute without end."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import SandboxedEnvironment
from transformers.utils.chat_template_utils import render_jinja_template

_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # transformers' own tag
_LIMITS = (MemoryError, RecursionError)  # the caller reports these as limits


def rendered(
    template: str, messages: Sequence[Mapping[str, Any]], options: Mapping[str, bool], variables: Mapping[str, Any]
) -> tuple[bool, str]:
    """Whether a template accepts the turns, and the prompt or the reason; as `apply_chat_template` renders it.

    options: `add_generation_prompt` and `continue_final_message`. variables: special tokens, and the template's own.
    """
    try:
        result: Any = render_jinja_template(
            conversations=[[dict(message) for message in messages]],
            chat_template=template,
            **dict[str, Any](options),
            **variables,
        )
    except _LIMITS:
        raise
    except ValueError as error:
        if "continue_final_message" in str(error):
            return False, "drops the assistant turn that the answer is to continue"
        return False, f"fails: {_reason(error)}"
    except jinja2.TemplateError as error:
        return False, f"rejects these turns: {_reason(error)}"
    except Exception as error:  # a template may raise anything
        return False, f"fails: {type(error).__name__}: {_reason(error)}"
    return True, result[0][0]


def variables_of(template: str) -> list[str]:
    """The variables that a template reads; empty if it is not a template."""
    environment = SandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        return sorted(jinja2.meta.find_undeclared_variables(environment.parse(_GENERATION.sub("", template))))
    except jinja2.TemplateError:
        return []


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
