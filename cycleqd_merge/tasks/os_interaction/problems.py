"""AgentBench's OS problems, read from its own JSON files and scripts, from CycleQD's samples, or from flat rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cycleqd_merge.errors import DataError

LANGUAGES = ("bash", "python", "c", "c++")


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
        DataError: the row is not a problem, or names a script that does not exist.
    """
    try:
        if "evaluation" in row:
            problem = _from_agentbench(row, scripts)
        else:
            problem = _from_flat(row["config"]["config"] if "config" in row else row)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"not an OS problem: {type(error).__name__}: {error}; columns: {', '.join(row)}") from error
    if (problem.answer, problem.pattern) == (None, None) and not problem.check:
        raise DataError("an OS problem requires a `match` or a `check`")
    if None in problem.check and problem.example is None:
        raise DataError("an OS problem with null in its `check` requires an `example_script`")
    return problem


def _from_flat(row: Mapping[str, Any]) -> OsProblem:
    match = row.get("match") or {}
    start = _script(row.get("start"))
    return OsProblem(
        description=row["description"],
        init=_scripts(row.get("init_script")),
        start=start.code if start is not None else None,
        answer=match.get("answer"),
        pattern=match.get("regex"),
        strip=bool(match.get("strip", True)),
        check=tuple(_script(each) for each in row.get("check") or ()),
        example=_script(row.get("example_script")),
    )


def _from_agentbench(row: Mapping[str, Any], scripts: Path) -> OsProblem:
    create, evaluation = row.get("create") or {}, row["evaluation"]
    create = create if isinstance(create, Mapping) else {}
    match = evaluation.get("match") or {}
    match = {"answer": match, "strip": True} if isinstance(match, str) else match
    check = evaluation.get("check") or []
    start = _script(row.get("start"), scripts)
    return OsProblem(
        description=row["description"],
        init=_scripts(create.get("init"), scripts),
        start=start.code if start is not None else None,
        answer=match.get("answer"),
        pattern=match.get("regex"),
        strip=bool(match.get("strip", True)),
        check=tuple(_script(each, scripts) for each in (check if isinstance(check, list) else [check])),
        example=_script(evaluation.get("example"), scripts),
    )


def _scripts(value: Any, scripts: Path | None = None) -> tuple[Script, ...]:
    """One script or a list of scripts; a pair of language and code is one script."""
    several = isinstance(value, list) and not (len(value) == 2 and all(isinstance(part, str) for part in value))
    found = [_script(each, scripts) for each in (value if several else [value])]
    return tuple(script for script in found if script is not None)


def _script(value: Any, scripts: Path | None = None) -> Script | None:
    if value is None:
        return None
    if isinstance(value, str):
        return Script("bash", value)
    if isinstance(value, Sequence):
        language, code = value
    else:
        language, code = value.get("language", "bash"), value.get("code")
        if code is None and scripts is not None:
            code = _read(scripts / value["file"])
    if language not in LANGUAGES or not isinstance(code, str):
        raise DataError(f"unknown script language {language!r}; allowed: {', '.join(LANGUAGES)}")
    return Script(language, code)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; set `scripts` to the scripts' folder") from None
