"""Seconds until `cycleqd-merge --help` has answered, beside those of a Python that does nothing.

python benchmarks/startup.py [--runs 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "cycleqd-merge --help": ["-c", "from cycleqd_merge.cli import main; main()", "--help"],
    "cycleqd-merge evolve --help": ["-c", "from cycleqd_merge.cli import main; main()", "evolve", "--help"],
    "cycleqd-merge schema": ["-c", "from cycleqd_merge.cli import main; main()", "schema"],
}


def seconds(arguments: list[str]) -> float:
    """Wall-clock seconds of one process of this interpreter."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs: int = parser.parse_args().runs
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):  # in turns, so that a busy moment meets all of them
        for name, arguments in COMMANDS.items():
            taken[name].append(seconds(arguments))
    table = Table(title=f"{runs} runs each")
    for heading in ("command", "median s", "fastest s", "slowest s"):
        table.add_column(heading, justify="left" if heading == "command" else "right")
    for name, each in taken.items():
        table.add_row(name, f"{statistics.median(each):.3f}", f"{min(each):.3f}", f"{max(each):.3f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
