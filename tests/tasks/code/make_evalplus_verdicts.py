"""Writes EvalPlus' verdicts on MBPP+ answers to `tests/data/evalplus/mbppplus.json`.

In an environment of its own, with Python 3.11: `pip install evalplus==0.3.1 "setuptools<81"`, then, from this folder:
`MBPP_OVERRIDE_PATH=.../MbppPlus-2023-11-16.jsonl PYTHONHASHSEED=0 python make_evalplus_verdicts.py`

Task ids, seeds and verdicts only: the answers are made again from their seeds (`mutants.py`), the solutions and inputs
are read from the file. Verdicts: 0 wrong, 1 correct on the base inputs, 2 on the additional inputs too.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy
from evalplus.data import get_mbpp_plus  # type: ignore[import-not-found]
from evalplus.eval import untrusted_check  # type: ignore[import-not-found]
from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS  # type: ignore[import-not-found]
from evalplus.gen.util import trusted_exec  # type: ignore[import-not-found]
from evalplus.sanitize import sanitize  # type: ignore[import-not-found]
from mutants import answer_of, digest, stub  # type: ignore[import-not-found]

MUTANTS = 300
PATH = Path(__file__).parents[2] / "data" / "evalplus" / "mbppplus.json"


def main() -> None:
    problems = get_mbpp_plus(err_incomplete=False)
    expected = {task_id: _expected(problem) for task_id, problem in problems.items()}
    canonical, stubs, mutants = {}, {}, []
    for task_id, problem in problems.items():
        canonical[task_id] = _verdict(problem, expected[task_id], problem["canonical_solution"])
        stubs[task_id] = _verdict(problem, expected[task_id], stub(problem["entry_point"]))
    passing = [(task_id, problems[task_id]["canonical_solution"]) for task_id in problems if canonical[task_id] == 2]
    for seed in range(MUTANTS):
        task_id, answer = answer_of(passing, seed)
        mutants.append([seed, task_id, digest(answer), _verdict(problems[task_id], expected[task_id], answer)])
    found = {
        "evalplus": "0.3.1",
        "numpy": numpy.__version__,
        "failing": {task_id: verdict for task_id, verdict in canonical.items() if verdict != 2},
        "passing": [task_id for task_id, verdict in canonical.items() if verdict == 2],
        "stubs": {task_id: verdict for task_id, verdict in stubs.items() if verdict},
        "mutants": mutants,
    }
    PATH.write_text(json.dumps(found, separators=(",", ":")) + "\n")


def _expected(problem: dict[str, Any]) -> dict[str, Any] | None:
    """As `evalplus.evaluate.get_groundtruth`; None if the reference solution fails."""
    program = problem["prompt"] + problem["canonical_solution"]
    not_none = problem["entry_point"] in MBPP_OUTPUT_NOT_NONE_TASKS
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return {
                kind: trusted_exec(program, problem[f"{kind}_input"], problem["entry_point"], True, not_none)
                for kind in ("base", "plus")
            }
    except Exception:
        return None


def _verdict(problem: dict[str, Any], expected: dict[str, Any] | None, answer: str) -> int:
    """How many of the two sets of inputs an answer is correct on, in order."""
    if expected is None:
        return 0
    program = sanitize(answer, problem["entry_point"])
    for number, kind in enumerate(("base", "plus")):
        values, seconds = expected[kind]
        inputs, name = problem[f"{kind}_input"], problem["entry_point"]
        for factor in (1, 10):  # a busy machine must not decide: a second time with generous limits
            status, _ = untrusted_check(
                "mbpp",
                program,
                inputs,
                name,
                values,
                problem["atol"],
                [factor * each for each in seconds],
                fast_check=True,
                min_time_limit=float(factor),
            )
            if status == "pass":
                break
        if status != "pass":
            return number
    return 2


if __name__ == "__main__":
    assert os.environ.get("PYTHONHASHSEED") == "0", "the order of sets must be the same each time"
    main()
