"""Extracting the program from an answer: the function asked for, and what it needs. Nothing is executed.

Like EvalPlus, this looks for the longest run of lines that is valid Python; unlike it, for one that defines the
function, in each code block and in the whole answer. tests/tasks/code/test_sanitiser.py compares the two.
"""

from __future__ import annotations

import re
import textwrap
import warnings
from collections.abc import Iterator
from itertools import takewhile

from cycleqd_merge.tasks.code.needed import is_weak, needed
from cycleqd_merge.tasks.code.runs import PythonRun, python_runs

_THOUGHT = re.compile(r"</(?:think|thinking|thought|reasoning|reflection|scratchpad)>|\[/think\]", re.IGNORECASE)
"""The end of a part of the answer that holds drafts."""
_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<marks>`{3,}|~{3,})(?P<info>.*)")
_TAG = re.compile(
    r"</?(?:code|pre|python|answer|solution)\b[^>\n]{0,99}>|\[/?(?:code|python|answer|solution)\]"
    r"|\\(?:begin|end)\{\w+\}(?:\[\w*\])?|<\|\w+\|>|</s>"
    r"|(?:`{3,}|~{3,})[ \t]*(?:python[\d.]*|py\d*)?(?=[ \t\n]|$)[ \t]*|`{3,}",
    re.IGNORECASE,
)
"""Marks of code that may share a line with it."""
_TRANSCRIPT = re.compile(r"^[ \t]*(?:>>>|\.\.\.)(?: (.*)|$)", re.MULTILINE)
_QUOTE = re.compile(r"^[ \t]*>[ ]?", re.MULTILINE)
_ODD_BLANKS = str.maketrans({"\u00a0": " ", "\u202f": " ", "\u200b": None, "\u2060": None, "\ufeff": None})
_LONGEST = 200_000  # characters of an answer that are read


def extract_program(answer: str, entry_point: str) -> str:
    """The definitions of `entry_point` in an answer, and the statements that they need.

    They are taken from the longest run of lines that is valid Python and defines it, in a code block or in the whole
    answer; a function that returns nothing is used only if there is no other. What that run lacks is taken from other
    runs. A closed part of thoughts holds drafts, which count only if the rest does not define the function. If nothing
    does, the first code block is returned unchanged, and will fail when run.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the answer's syntax
        return _extract(answer, entry_point)


def _extract(answer: str, entry_point: str) -> str:
    answer = answer[:_LONGEST].removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    said = _THOUGHT.split(answer)[-1]
    stub = ""
    for text in dict.fromkeys((said, answer)):
        for texts in (_code(text), *map(_code, _variants(text, entry_point))):
            program, is_real = _best(texts, entry_point)
            if is_real:
                return program
            stub = stub or program
    return stub or next(iter(_blocks(answer)), answer)


def _best(texts: list[str], entry_point: str) -> tuple[str, bool]:
    """The program of the best run in several texts, and whether its function returns anything; "" if there is none."""
    runs = [run for text in texts for run in python_runs(text)]
    defining = [place for place, run in enumerate(runs) if _defines(run, entry_point)]
    if not defining:
        return "", False
    chosen = max(defining, key=lambda place: (_is_real(runs[place], entry_point), runs[place].lines))
    program = needed([run.statements for run in runs], chosen, entry_point)
    return "\n".join(program), _is_real(runs[chosen], entry_point)


def _defines(run: PythonRun, name: str) -> bool:
    return any(name in statement.binds for statement in run.statements)


def _is_real(run: PythonRun, name: str) -> bool:
    """Whether a run has a definition that stands on its own, unlike `add = cached(add)`, and is not weak."""
    definitions = [statement for statement in run.statements if name in statement.binds and not is_weak(statement)]
    return any(hasattr(statement.tree, "body") or name not in statement.uses for statement in definitions)


def _code(text: str) -> list[str]:
    """The code blocks of a text, and the text itself."""
    return [*_blocks(text), text]


def _blocks(text: str) -> Iterator[str]:
    """The contents of Markdown's fenced code blocks, dedented.

    A block opens with any info string, and closes with a bare fence that is as long and not indented further; the last
    block may be cut off.
    """
    opened, held = None, list[str]()
    for line in text.split("\n"):
        fence = _FENCE.fullmatch(line)
        if opened is None:
            opened, held = fence, []
        elif fence and _closes(fence, opened):
            yield _dedented(held, opened["indent"])
            opened = None
        else:
            held.append(line)
    if opened is not None:
        yield _dedented(held, opened["indent"])


def _closes(fence: re.Match[str], opened: re.Match[str]) -> bool:
    same = fence["marks"].startswith(opened["marks"]) and not fence["info"].strip()
    return same and len(fence["indent"].expandtabs()) <= len(opened["indent"].expandtabs())


def _dedented(lines: list[str], indent: str) -> str:
    """Lines without the indentation of their fence, or with less if they share more."""
    return textwrap.dedent("\n".join(line.removeprefix(indent) for line in lines))


def _variants(text: str, entry_point: str) -> Iterator[str]:
    """An answer without what may surround code: marks on the same line, odd blanks, quotes, prompts, indentation."""
    candidates = [
        _TAG.sub("\n", text),
        text.translate(_ODD_BLANKS),
        _QUOTE.sub("", text),
        "\n".join(_TRANSCRIPT.findall(text)),
        _indented(text.split("\n"), entry_point),
    ]
    return (candidate for candidate in candidates if candidate and candidate != text)


def _indented(lines: list[str], entry_point: str) -> str:
    """The first indented part that defines `entry_point`, dedented."""
    definition = re.compile(rf"[ \t]+(?:async[ ]+)?(?:def[ ]+{re.escape(entry_point)}\b|{re.escape(entry_point)}\s*=)")
    found = next((number for number, line in enumerate(lines) if definition.match(line)), None)
    if found is None:
        return ""
    first = found
    while first and lines[first - 1][:1] in ("", " ", "\t"):
        first -= 1
    part = takewhile(lambda line: line[:1] in ("", " ", "\t"), lines[first:])
    return textwrap.dedent("\n".join(part))
