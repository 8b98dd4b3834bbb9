"""Building blocks of all configuration: the strict base class, names, model references, regular expressions."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    WithJsonSchema,
)

from cycleqd_merge.config.patterns import pattern_problem

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


def require_name(value: str) -> str:
    if not re.fullmatch(_NAME, value):
        raise ValueError("a name consists of letters, digits, `_`, `.` and `-`, and starts with a letter or digit")
    return value


def _model_reference(value: str) -> str:
    if not value.strip() or re.match(r"\w+://", value):
        raise ValueError(REFERENCE_FORM)
    return value


REFERENCE_FORM = "write a model as a Hub id or a path, with `@revision` and `+adapter` where needed"

ModelReference = Annotated[str, AfterValidator(_model_reference)]
"""A model in mergekit's syntax: Hub id or local path, `@revision`, `base+adapter`; see `model_names`."""


def _end_token(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):  # True would be the id 1
        raise ValueError("write a token such as '</s>', or its id")
    return value


EndToken = Annotated[int | str, BeforeValidator(_end_token)]
"""A token of the children's tokenizer, or its id."""


Name = Annotated[str, AfterValidator(require_name), WithJsonSchema({"type": "string", "pattern": _NAME})]


Unit = Annotated[float, Field(ge=0, le=1)]

LARGE = 1e6
"""No setting of the search is larger: sums and products of such numbers are finite, and what they count fits into
memory."""
MAX_GENERATIONS, MAX_ROWS, MAX_SEED = 10_000_000, 1_000_000_000, 2**63 - 1
MAX_COUNT, MAX_REPEATS = 10_000_000, 10_000

Moderate = Annotated[float, Field(ge=-LARGE, le=LARGE)]


_REPOSITORY = r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$"


UNEXPANDED = {"unexpanded": True}
"""Context of a validation that accepts `${NAME}` where a text must have a form."""


def _has_variable(value: str, info: ValidationInfo) -> bool:
    return "${" in value and bool((info.context or {}).get("unexpanded"))


def _repository(value: str, info: ValidationInfo) -> str:
    if not _has_variable(value, info) and not re.fullmatch(_REPOSITORY, value):
        raise ValueError("write a repository as `user/name`")
    return value


Repository = Annotated[str, AfterValidator(_repository), WithJsonSchema({"type": "string", "pattern": _REPOSITORY})]


def _regular_expression(value: str) -> str:
    if (problem := pattern_problem(value)) is not None:
        raise ValueError(f"not a regular expression: {problem}")
    return value


RegularExpression = Annotated[str, AfterValidator(_regular_expression)]
"""A regular expression in Python's syntax."""


class StrictConfig(BaseModel):
    """Base class of all configuration: unknown keys are rejected, and values cannot be changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    _written: dict[tuple[int | str, ...], Any] = PrivateAttr(default_factory=dict)
    """The texts with variables among its values, by location; see `variables`."""


_TARGET = r"^([\w.]+|.+\.py):\w+$"


def _target(value: str, info: ValidationInfo) -> str:
    if not _has_variable(value, info) and not re.fullmatch(_TARGET, value):
        raise ValueError("write `module:Class` or `path/to/file.py:Class`")
    return value


class PythonTargetConfig(StrictConfig):
    """Your own Python class or function."""

    target: Annotated[str, AfterValidator(_target), WithJsonSchema({"type": "string", "pattern": _TARGET})]
    """`module:Name`, or `path/to/file.py:Name`; a relative path starts at the folder of the file that names it."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its keyword arguments."""
