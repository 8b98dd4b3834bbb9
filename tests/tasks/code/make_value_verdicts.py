"""Writes EvalPlus' verdicts on pairs of values to `tests/data/evalplus/values.json`.

In EvalPlus' environment (see `make_evalplus_verdicts.py`), from this folder: `python make_value_verdicts.py`
"""

from __future__ import annotations

import json
from pathlib import Path

from evalplus.eval import untrusted_check  # type: ignore[import-not-found]
from evalplus.gen.util import trusted_exec  # type: ignore[import-not-found]
from value_cases import CASES, DIFFERENT, INPUTS, Side, program  # type: ignore[import-not-found]

PATH = Path(__file__).parents[2] / "data" / "evalplus" / "values.json"


def equal(reference: Side, answer: Side, atol: float) -> bool:
    try:
        values = trusted_exec(program(reference), INPUTS, "f")
    except Exception:
        return False
    return bool(untrusted_check("mbpp", program(answer), INPUTS, "f", values, atol, [0.5])[0] == "pass")


if __name__ == "__main__":
    found = {name: equal(*case) for name, *case in (*CASES, *(different[:4] for different in DIFFERENT))}
    PATH.write_text(json.dumps(found, indent=0) + "\n")
