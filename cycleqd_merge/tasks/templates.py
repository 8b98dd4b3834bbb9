"""Jinja templates over the columns of a row, as task files state them."""

from __future__ import annotations

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from cycleqd_merge.errors import UserError
from cycleqd_merge.tasks.protocol import Sample

_JINJA = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)


def template(text: str, field: str) -> jinja2.Template:
    """The template that the task file states under `field`.

    Raises:
        UserError: it is none.
    """
    try:
        return _JINJA.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{field}: not a template: {error.message}") from None


def render(template: jinja2.Template, sample: Sample, field: str) -> str:
    """The text that a template gives for a row.

    Raises:
        UserError: the row lacks a column, or the template fails on it.
    """
    try:
        return template.render(sample.row)
    except jinja2.UndefinedError as error:
        raise UserError(f"{field}: {error.message}; the row has the columns {', '.join(sample.row)}") from None
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{field}: cannot be rendered: {error}") from error
