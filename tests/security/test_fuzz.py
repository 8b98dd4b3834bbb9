"""Mutated journals, recipes, task files, archives, comparisons and genomes end in success or in one clear line.

Each input follows from its target and a number; a failure names both. CYCLEQD_FUZZ_SECONDS: how long to search, 20 by
default. CYCLEQD_FUZZ_FIRST: the first number, 0 by default. CYCLEQD_FUZZ_ONE: a single input to try again in this
process, such as `journal:123`. The figures are printed: `pytest -s tests/security/test_fuzz.py`.
"""

from __future__ import annotations

import io
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.errors import CycleQDError
from cycleqd_merge.journal.log import JOURNAL_FILE, Journal, read_events
from tests.frozen.records import restored
from tests.run.synthetic import SyntheticPool, run, session_of, start_of, synthetic_recipe
from tests.security import fuzzing
from tests.security.forked import GIB, limit_memory

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
SECONDS = float(os.environ.get("CYCLEQD_FUZZ_SECONDS", "20"))
FIRST = int(os.environ.get("CYCLEQD_FUZZ_FIRST", "0"))
CPU_SECONDS = 5
"""Limit for one input, of CPU time: the machine may be busy."""
WALL_SECONDS = 120.0
CHUNK = 100
"""Inputs per child process."""


class Hang(BaseException):
    """An input took too long."""


@dataclass(frozen=True)
class Target:
    """What reads a kind of file: valid files, a mutation of their values, and the public functions to call.

    most_lines: of a message; recipes and task files have a line for every mistake.
    """

    files: list[bytes]
    values: fuzzing.Mutation
    handle: Callable[[bytes, Path, random.Random], object]
    most_lines: int = 1


def synthetic_journals(folder: Path) -> list[bytes]:
    """Journals of short runs with every kind of option."""
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "racing": {"evolution": {"race": {"share": 0.25, "confidence": 0.9}, "warm_start": [0.3]}},
        "map-elites": {"evolution": {"cycling": False}},
        "random": {"strategy": {"kind": "random"}},
        "cma-es": {"strategy": {"kind": "cma-es", "population": 4}},
        "cma-me": {"strategy": {"kind": "cma-me", "population": 4, "bred": 0.4}},
        "bayesian": {"strategy": {"kind": "bayesian", "bred": 0.4}},
        "static": {"strategy": {"kind": "mergekit", "methods": ["linear", "slerp"]}},
    }
    for name, settings in options.items():
        failing = SyntheticPool(failure=lambda number: "out of memory" if number == 5 else None)
        run(folder / name, synthetic_recipe(6, **settings), 2, failing)
    return [(folder / name / JOURNAL_FILE).read_bytes() for name in options]


def frozen_journals() -> list[bytes]:
    paths = [*(DATA / "frozen").glob("*/journal.jsonl"), DATA / "sampling-0.1" / JOURNAL_FILE]
    return [restored(path.read_text(), ROOT, Path("/nowhere")).encode() for path in sorted(paths)]


def founder(folder: Path) -> bytes:
    """The genome of a mutated child."""
    done = run(folder, synthetic_recipe(6))
    return json.dumps(done.search.genome(7).to_json()).encode()


def archives(folder: Path) -> list[bytes]:
    """Journals as `push` publishes them."""
    from cycleqd_merge.hub.archive import portable_events
    from cycleqd_merge.hub.portable import portable_recipe
    from cycleqd_merge.run.state import open_run

    published = []
    for number, journal in enumerate(frozen_journals()[:4]):
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / JOURNAL_FILE).write_bytes(journal)
        portable = portable_recipe(open_run(folder / str(number)).recipe)
        events = portable_events(read_events(folder / str(number)), portable)
        published.append("".join(json.dumps(event) + "\n" for event in events).encode())
    return published


def handle_journal(data: bytes, folder: Path, rng: random.Random) -> None:
    from cycleqd_merge.report.summary import summary
    from cycleqd_merge.run.state import open_run

    (folder / JOURNAL_FILE).write_bytes(data)
    if rng.randrange(8) == 0:
        command_line("show", folder, *rng.choice(([], ["--json"], ["--all"], ["--elite", "best-mean"])))
        return
    opened = open_run(folder)
    summary(opened)
    opened.to_pandas()
    with closing(Journal(folder)) as journal:
        assert journal.events


def command_line(*arguments: object) -> None:
    """Run a command in this process; it must succeed, or end with exit code 1 or 2 and one line."""
    from cycleqd_merge import cli

    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["cycleqd-merge", *map(str, arguments)]
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        cli.main()
    printed = err.getvalue()
    if ended.value.code not in (0, None, 1, 2) or "internal error" in printed or "Traceback" in printed:
        raise RuntimeError(printed)
    if ended.value.code:
        raise CycleQDError(printed.strip())


def handle_recipe(data: bytes, folder: Path, rng: random.Random) -> None:
    from cycleqd_merge.config.archives import require_archives
    from cycleqd_merge.config.loading import load_recipe, load_task, yaml_text

    path = folder / "recipe.yaml"
    path.write_bytes(data)
    recipe = load_recipe(path)
    require_archives(recipe)
    for use in recipe.tasks:
        load_task(use)
    yaml_text(recipe.model_dump(mode="json", exclude_unset=True))


def handle_task(data: bytes, folder: Path, rng: random.Random) -> None:
    from cycleqd_merge.config.loading import load_task
    from cycleqd_merge.config.recipe import TaskConfig

    path = folder / "task.yaml"
    path.write_bytes(data)
    load_task(TaskConfig(task=str(path), name="task"))


def handle_archive(data: bytes, folder: Path, rng: random.Random) -> None:
    import huggingface_hub

    from cycleqd_merge.hub.pull import pull

    downloaded = folder / "downloaded"
    downloaded.mkdir()
    (downloaded / JOURNAL_FILE).write_bytes(data)
    huggingface_hub.snapshot_download = lambda *_, **__: str(downloaded)  # as if it had been downloaded
    pull("lab/run-archive", folder / "out")


def handle_comparison(data: bytes, folder: Path, rng: random.Random) -> None:
    from cycleqd_merge.comparison.comparison_folder import open_run_or_comparison
    from cycleqd_merge.comparison.page_section import page_section

    whole = folder / "compared"
    shutil.copytree(DATA / "comparison-0.1", whole)
    for path in whole.rglob(JOURNAL_FILE):
        path.write_text(restored(path.read_text(), ROOT, Path("/nowhere")))
    (whole / (JOURNAL_FILE if b'{"event"' in data[:30] else "comparison.json")).write_bytes(data)
    opened = open_run_or_comparison(whole)
    assert opened.comparison is not None
    page_section(opened.comparison)


def handle_genome(data: bytes, folder: Path, rng: random.Random) -> None:
    """A genome in the place of a run's founder, and in that of a mergekit configuration's parameter."""
    from cycleqd_merge.merging.mergekit_method import MutationsParameter
    from cycleqd_merge.run.state import open_run

    recipe = synthetic_recipe(4)
    start = {**start_of(recipe, 2), "seeds": ["FOUNDER"]}
    lines = "".join(json.dumps(event) + "\n" for event in (start, session_of(recipe)))
    text = data.decode(errors="surrogateescape").replace("\n", " ")
    record = f'{{"genome":{text},"scores":{{}},"from":3}}'
    (folder / JOURNAL_FILE).write_bytes(lines.replace('"FOUNDER"', record).encode(errors="surrogateescape"))
    if rng.randrange(2):
        settings = '"groups":"one","bases":{},"vocabulary":"strict","rank":null,"format"'
        MutationsParameter.parse(text.replace('"format"', settings), 3)
    open_run(folder)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    folder = tmp_path_factory.mktemp("valid")
    journals = [*synthetic_journals(folder / "synthetic"), *frozen_journals()]
    compared = [DATA / "comparison-0.1" / name for name in ("comparison.json", JOURNAL_FILE)]
    recipes = [path.read_bytes() for path in sorted((ROOT / "recipes").glob("*.yaml"))]
    tasks = [path.read_bytes() for path in sorted((ROOT / "tasks").glob("*.yaml"))]
    return {
        "journal": Target(journals, fuzzing.mutated_json_lines, handle_journal),
        "recipe": Target(recipes, fuzzing.mutated_yaml, handle_recipe, 200),
        "task": Target(tasks, fuzzing.mutated_yaml, handle_task, 200),
        "archive": Target(archives(folder / "published"), fuzzing.mutated_json_lines, handle_archive, 200),
        "comparison": Target(
            [path.read_bytes() for path in compared], fuzzing.mutated_json_of_any_form, handle_comparison
        ),
        "genome": Target([founder(folder / "founder")], fuzzing.mutated_json, handle_genome),
    }


def attempt(name: str, target: Target, number: int) -> str:
    """Handle one input: "accepted", "refused", or a description of what went wrong."""
    rng = random.Random(f"{name}:{number}")
    data = fuzzing.mutated(rng.choice(target.files), rng, target.values)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        target.handle(data, folder, rng)
    except CycleQDError as error:
        return complaint(str(error), target.most_lines) or "refused"
    except BaseException as error:
        frames = [each for each in traceback.extract_tb(error.__traceback__) if "cycleqd_merge" in each.filename]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "elsewhere"
        return f"{type(error).__name__} at {place}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        shutil.rmtree(folder, ignore_errors=True)
    return "accepted"


def complaint(message: str, most: int) -> str | None:
    """What is wrong with an error message; None if nothing is."""
    lines = message.splitlines()
    if not 1 <= len(lines) <= most:
        return f"a message of {len(lines)} lines: {message[:300]!r}"
    if max(map(len, lines)) > 1500:
        return f"a line of {max(map(len, lines))} characters: {message[:300]!r}"
    if not message.isprintable() and not message.replace("\n", "").isprintable():
        return f"a message that cannot be printed: {message[:300]!r}"
    return None


def outcomes(name: str, target: Target, first: int) -> Iterator[str]:
    """The outcomes of the inputs from `first` on, handled in a child process with limits, until CHUNK or its death."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        limit_memory(GIB)
        signal.signal(signal.SIGPROF, _hang)
        try:
            for number in range(first, first + CHUNK):
                os.write(writer, json.dumps(attempt(name, target, number)).encode() + b"\n")
        finally:
            os._exit(0)
    os.close(writer)
    done = 0
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        rest = b""
        while True:
            if not select.select([pipe], [], [], WALL_SECONDS)[0]:
                os.kill(child, signal.SIGKILL)
                break
            data = pipe.read(65536)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            done += len(lines)
            yield from map(json.loads, lines)
    _, status = os.waitpid(child, 0)
    if done < CHUNK:
        yield f"the process died: status {status}"


def _hang(*_: object) -> None:
    raise Hang(f"more than {CPU_SECONDS} seconds")


@dataclass
class Figures:
    """The outcomes of one target's inputs. failures: the first number by description."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, int] = field(default_factory=dict)
    tried: int = 0

    def add(self, number: int, outcome: str) -> None:
        self.tried += 1
        if outcome not in ("accepted", "refused"):
            if not any(known.partition(": ")[0] == outcome.partition(": ")[0] for known in self.failures):
                self.failures[outcome] = number
            outcome = "failed"
        self.counts[outcome] += 1


def search(name: str, target: Target, seconds: float) -> Figures:
    figures, end = Figures(), time.monotonic() + seconds
    while time.monotonic() < end:
        first = FIRST + figures.tried
        for place, outcome in enumerate(outcomes(name, target, first)):
            figures.add(first + place, outcome)
            if time.monotonic() > end + 30:
                break
    return figures


def test_every_input_is_accepted_or_refused_in_one_line(targets: dict[str, Target]) -> None:
    one = os.environ.get("CYCLEQD_FUZZ_ONE")
    if one is not None:
        name, _, number = one.partition(":")
        signal.signal(signal.SIGPROF, _hang)
        rng = random.Random(one)
        data = fuzzing.mutated(rng.choice(targets[name].files), rng, targets[name].values)
        sys.stdout.write(data.decode(errors="backslashreplace")[:20000] + "\n")
        assert attempt(name, targets[name], int(number)) in ("accepted", "refused")
        return
    failures = []
    for name, target in targets.items():
        figures = search(name, target, SECONDS / len(targets))
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(figures.counts.items()))
        sys.stdout.write(f"fuzz: {name}: {figures.tried} inputs: {counts}\n")
        failures += [f"CYCLEQD_FUZZ_ONE={name}:{number}: {what}" for what, number in figures.failures.items()]
    assert not failures, "\n".join(failures)
