"""Runs inside a box, below the text of values.py: loads a program, calls its function, writes down what it returns.

It knows no expected value; whatever the program does to it can only change what is handed in.
"""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # in a box they stand above
    from cycleqd_merge.tasks.code.values import json, to_text, unpack


def main() -> None:
    asked = json.loads(sys.stdin.buffer.read())
    answers = os.fdopen(os.dup(1), "w")
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    print("ready", file=answers, flush=True)
    scope = {"__name__": "solution"}
    exec(compile(asked["program"], "solution", "exec"), scope)
    function = scope[asked["entry_point"]]
    for arguments in asked["inputs"]:
        try:
            line = to_text(function(*[unpack(argument) for argument in arguments]))
        except Exception as error:
            line = json.dumps(["other", type(error).__name__])
        print(line, file=answers, flush=True)


if __name__ == "__main__":
    main()
