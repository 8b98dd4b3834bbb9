"""AgentBench's OS problems, read from its own JSON files and scripts, from CycleQD's samples, or from flat rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cycleqd_merge.config.patterns import pattern_problem
from cycleqd_merge.config.validation_errors import short_repr
from cycleqd_merge.errors import DataError
from cycleqd_merge.tasks.matching import is_found

LANGUAGES = ("bash", "python", "c", "c++")
_LONGEST_SCRIPT = 131_071
"""Bytes: Linux's limit for an argument of a program."""
_LONGEST_START = 60_000
"""Characters: the limit for a command in a box's shell."""
_SCRIPT_FORMS = 'a text, a pair such as ["bash", "ls"], or an object with `code`'


@dataclass(frozen=True, slots=True)
class Script:
    """A program in one of LANGUAGES."""

    language: str
    code: str


@dataclass(frozen=True, slots=True)
class OsProblem:
    """A question about a system, or a job to do on it.

    init: scripts that prepare the system. start: a command typed into the shell before the model's first turn.
    answer: the correct answer. pattern: a regular expression to find in the answer. strip: strip the answer first.
    check: scripts called with the answer and the outputs of the scripts before them, which must all succeed; None is
    the example. example: a script that prints the correct answer, or does the job.
    """

    description: str
    init: tuple[Script, ...] = ()
    start: str | None = None
    answer: str | None = None
    pattern: str | None = None
    strip: bool = True
    check: tuple[Script | None, ...] = ()
    example: Script | None = None


def read_os_problem(row: Mapping[str, Any], scripts: Path) -> OsProblem:
    """A problem from a row. scripts: the folder of the script files that AgentBench's problems name.

    Raises:
        DataError: the row is not a problem, names a script that does not exist, or cannot be graded.
    """
    if "description" not in row and "config" not in row:
        raise DataError(f"not an OS problem: no `description`; the row has the columns {', '.join(row)}")
    if "evaluation" in row:
        graded, create = _object(row["evaluation"], "evaluation"), row.get("create")
        init, example = (create.get("init") if isinstance(create, Mapping) else None), graded.get("example")
    else:
        nested = _object(row["config"], "config").get("config") if "config" in row else row
        row = graded = _object(nested, "config: config")
        init, example = row.get("init_script"), row.get("example_script")
    start = _script(row.get("start"), "start", scripts)
    answer, pattern, strip = _match(graded.get("match"))
    problem = OsProblem(
        description=_text(row.get("description"), "description"),
        init=tuple(script for script in _scripts(init, "init_script", scripts) if script is not None),
        start=start.code if start is not None else None,
        answer=answer,
        pattern=pattern,
        strip=strip,
        check=_scripts(graded.get("check"), "check", scripts),
        example=_script(example, "example_script", scripts),
    )
    _require_gradable(problem)
    return problem


def _require_gradable(problem: OsProblem) -> None:
    """Check a problem's definition of right answers.

    Raises:
        DataError: it has none, or accepts every answer.
    """
    if len(problem.start or "") > _LONGEST_START:
        raise DataError(f"start: a command has at most {_LONGEST_START} characters; use `init_script`")
    if (problem.answer, problem.pattern) != (None, None):
        return
    if not problem.check:
        raise DataError("an OS problem requires a `match` or a `check`")
    if None in problem.check and problem.example is None:
        raise DataError("an OS problem with null in its `check` requires an `example_script`")
    if not any(problem.check):
        raise DataError("check: only runs the example, so every answer would be right; add a script that compares them")
    if any(script is not None and not script.code.strip() for script in problem.check):
        raise DataError("check: a script is empty, so every answer would be right")


def _match(value: Any) -> tuple[str | None, str | None, bool]:
    """The answer, pattern and strip of a `match`; a plain text is the answer."""
    if value is None or value == {}:
        return None, None, True
    match: Mapping[str, Any] = {"answer": value} if isinstance(value, str | int | float) else _object(value, "match")
    answer, pattern, strip = match.get("answer"), match.get("regex"), match.get("strip", True)
    strip = True if strip is None else strip
    if not isinstance(strip, bool):
        raise DataError(f"match: strip: expected true or false; found {strip!r}")
    if answer is None and pattern is None:
        raise DataError("match: set `answer` to the exact answer, or `regex` to a pattern of right answers")
    if answer is not None:
        answer = _text(answer, "match: answer")
        if answer != answer.strip() and strip:
            raise DataError(
                f"match: answer: {answer!r} has blanks at an end, which are removed from the model's answer; "
                "remove them, or set `strip: false`"
            )
    elif is_found(_pattern(pattern), ""):
        raise DataError(f"match: regex: {pattern!r} accepts an empty answer; anchor it, as in '^[0-9]+$'")
    return answer, pattern, strip


def _pattern(value: Any) -> str:
    text = _text(value, "match: regex")
    if (problem := pattern_problem(text)) is not None:
        raise DataError(f"match: regex: {short_repr(text)} is not a regular expression: {problem}")
    return text


def _object(value: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f"{key}: expected an object; found {short_repr(value)}")
    return value


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        hint = "; write it in quotes" if isinstance(value, int | float) else ""
        raise DataError(f"{key}: expected a text; found {short_repr(value)}{hint}")
    if not value.strip():
        raise DataError(f"{key}: is empty")
    _require_unicode(value, key)
    return value


def _require_unicode(text: str, key: str) -> int:
    """The size of a text in bytes."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise DataError(f"{key}: is not valid Unicode (it contains a lone surrogate)") from None


def _scripts(value: Any, key: str, scripts: Path) -> tuple[Script | None, ...]:
    """One script or a list of scripts; a pair of texts is one script if the first is a language, or could be one."""
    if value is None:
        return ()
    several = isinstance(value, list | tuple) and not (
        len(value) == 2 and all(isinstance(part, str) for part in value) and re.fullmatch(r"[\w+#.-]+", value[0])
    )
    return tuple(_script(each, key, scripts) for each in (value if several else [value]))


def _script(value: Any, key: str, scripts: Path) -> Script | None:
    if value is None:
        return None
    language, code = "bash", value
    if isinstance(value, list | tuple) and len(value) == 2:
        language, code = value
    elif isinstance(value, Mapping):
        language, code = value.get("language") or "bash", value.get("code")
        if code is None and "file" in value:
            code = _read(scripts, _text(value["file"], f"{key}: file"))
    if not isinstance(code, str):
        raise DataError(f"{key}: expected a script: {_SCRIPT_FORMS}; found {short_repr(value)}")
    if language not in LANGUAGES:
        raise DataError(f"{key}: unknown script language {language!r}; allowed: {', '.join(LANGUAGES)}")
    if "\0" in code:
        raise DataError(f"{key}: a script contains a NUL character")
    if _require_unicode(code, key) > _LONGEST_SCRIPT and language in ("bash", "python"):
        raise DataError(f"{key}: a script has more than {_LONGEST_SCRIPT} bytes, the limit of a command; shorten it")
    return Script(language, code)


def _read(scripts: Path, name: str) -> str:
    """The text of a script file, which must be in the folder of scripts."""
    path = scripts / name
    if not path.resolve().is_relative_to(scripts.resolve()):
        raise DataError(f"{name}: is outside the scripts' folder {scripts}")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; set `scripts` to the scripts' folder") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None
