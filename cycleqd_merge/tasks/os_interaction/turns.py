"""The turns of a conversation in AgentBench's format: reading the model's action, writing the system's answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

_ACT = re.compile(r"Act:\s*(.+)")
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|\Z)|\x1b[ -/]*[0-~]?|[\x00-\x08\x0b-\x1f\x7f-\x9f]",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Action:
    """An action of the model. content: the commands, or the answer; None if it finishes without an answer."""

    kind: Literal["bash", "commit"]
    content: str | None


def read_action(turn: str) -> Action | None:
    """The last valid action of a turn, or None. Several code blocks form one script."""
    for action in reversed(_ACT.findall(turn)):
        word = action.lower()
        if word.startswith("bash"):
            return Action("bash", "\n\n".join(_blocks(turn)))
        if word.startswith("finish"):
            return Action("commit", None)
        if word.startswith("answer"):
            first, last = action.find("("), action.rfind(")")
            if first != -1 and last != -1:
                return Action("commit", action[first + 1 : last])
    return None


def _blocks(turn: str) -> Iterator[str]:
    """The contents of the blocks of bash; a regular expression would take quadratic time."""
    start, end = "```bash\n", "\n```"
    place = turn.find(start)
    while place >= 0 and (ended := turn.find(end, place + len(start))) >= 0:
        yield turn[place + len(start) : ended]
        place = turn.find(start, ended + len(end))


def system_turn(output: bytes, longest: int, kept: int) -> str:
    """The system's turn: a command's output, cut off after `kept` characters if it has more than `longest`."""
    text = without_control_codes(output.decode(errors="replace"))
    if len(text) > longest:
        text = f"{text[:kept]}\n[truncated because the output is too long]"
    return f"The output of the OS:\n\n{text}" if text else "The output of the OS is empty."


def without_control_codes(text: str) -> str:
    """Text without terminal escape sequences and control characters, except tabs and line feeds."""
    return _CONTROL.sub("", text)
