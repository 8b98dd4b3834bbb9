"""Runs inside a box, appended to the text of values.py: loads a program, calls its function, writes its return values.

It never receives expected values: a program that tampers with it changes only its own answers.
"""

import json
import os
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:  # in a box, the functions are defined above
    from typing import Any

    from cycleqd_merge.tasks.code.values import to_text, unpack


def run_program() -> None:
    request = json.loads(sys.stdin.buffer.read())
    answers = os.fdopen(os.dup(1), "w")
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    print("ready", file=answers, flush=True)
    module = types.ModuleType("solution")
    sys.modules["solution"] = module  # dataclasses and enumerations look their module up
    # without the __future__ imports of this text
    exec(compile(request["program"], "solution", "exec", dont_inherit=True), module.__dict__)
    function: Any = getattr(module, request["entry_point"])
    for arguments in request["inputs"]:
        try:
            line = to_text(function(*[unpack(argument) for argument in arguments]))
        except Exception as error:
            line = json.dumps(["error", type(error).__name__])
        print(line, file=answers, flush=True)


if __name__ == "__main__":
    run_program()
