"""Store EvalPlus' verdicts on the answers of answer_shapes.py.

pip install evalplus==0.3.1    # in an environment of its own
python tests/tasks/code/evalplus_sanitiser.py > tests/data/evalplus/sanitiser.json
"""

from __future__ import annotations

import json
import sys

from answer_shapes import CHECK, CHECKS, SHAPES, is_right
from evalplus.sanitize import sanitize


def main() -> None:
    verdicts = {}
    for name, answer in SHAPES.items():
        try:
            program = sanitize(answer, "add")
        except (ValueError, UnicodeError) as error:  # it cannot read null characters, nor lone surrogates
            sys.stderr.write(f"{name}: {error!r}\n")
            program = ""
        verdicts[name] = is_right(program, CHECKS.get(name, CHECK))
    sys.stdout.write(json.dumps(verdicts, indent=1, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
