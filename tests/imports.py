"""The modules that a new interpreter has imported after a program."""

from __future__ import annotations

import subprocess
import sys
from typing import NamedTuple

HEAVY = {
    *("PIL", "accelerate", "cma", "datasets", "huggingface_hub", "lm_eval", "matplotlib", "mergekit", "moocore"),
    *("pandas", "peft", "pyarrow", "pymoo", "pymysql", "ray", "ribs", "safetensors", "scipy", "sklearn", "sqlglot"),
    *("torch", "transformers", "vllm"),
}
"""Libraries that take long to import, or that are extras."""


class Ended(NamedTuple):
    """How a program ended, and what it had imported: modules by their full names."""

    code: int
    stderr: str
    modules: frozenset[str]

    @property
    def packages(self) -> set[str]:
        """The names up to the first dot."""
        return {name.split(".")[0] for name in self.modules}


def imported(code: str, *arguments: object) -> Ended:
    """Run `code` in a new interpreter with command-line `arguments`."""
    report = "import atexit, sys; atexit.register(lambda: print('\\nmodules:', *sys.modules))"
    command = [sys.executable, "-c", f"{report}\n{code}", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    _, found, names = ended.stdout.rpartition("\nmodules: ")
    assert found, ended.stderr
    return Ended(ended.returncode, ended.stderr, frozenset(names.split()))


def imported_with(module: str) -> Ended:
    """Import a module of this package alone, without an error. module: its name below `cycleqd_merge`."""
    ended = imported(f"import cycleqd_merge.{module}")
    assert (ended.code, ended.stderr) == (0, "")
    assert f"cycleqd_merge.{module}" in ended.modules
    return ended
