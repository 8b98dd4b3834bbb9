"""Other people's machines: users without a home, odd encodings, closed pipes, an overloaded Hub, signals."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from cycleqd_merge.errors import RecipeError
from cycleqd_merge.evaluation.pools.cluster import connect
from tests.cli.conftest import CliRun, Models, cycleqd_merge, finished, models, write_recipe
from tests.hub.conftest import Parents, hub, parents, put_parents
from tests.hub.conftest import write_recipe as write_hub_recipe
from tests.hub.server import LocalHub
from tests.hub.server.faults import CUT_AFTER
from tests.security.attacks import Attack, cases

__all__ = ["finished", "hub", "models", "parents"]  # fixtures

ROOT = Path(__file__).parents[2]
KIND = "other people's machines"
CLI = f"{sys.executable} -m cycleqd_merge"
SEARCH = "--set evolution.generations=1 --set output=run"
FINISH = "--set 'finish={{export: [best-mean], heldout: true}}'"
OTHER_USER = "bwrap --ro-bind / / --bind {tmp} {tmp} --dev /dev --proc /proc --unshare-user --uid 12345 --gid 12345"
"""The same files for a user who has no name and no home, and may write to one folder only."""


@dataclass(frozen=True)
class Shell:
    """A command for bash in an empty folder, and how it must end.

    It may name {cli}, {run} (a finished run), {recipe}, {other} (a prefix: as another user) and {tmp} (its folder).
    says: a part of stdout or stderr. made: files that exist in its folder afterwards.
    """

    command: str
    code: int = 0
    says: str = ""
    made: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


def _shell(
    attack: str, outcome: str, command: str, code: int = 0, says: str = "", *made: str, **variables: str
) -> Attack:
    return Attack(KIND, attack, outcome, Shell(command, code, says, made, tuple(variables.items())))


_SHOWN = "the run is shown"
_ONE_LINE = "one line that names the folder and the variable"
_DROPPED = "what cannot be printed is dropped or spelled; the command does all its work"

ATTACKS = [
    _shell("another user without a home shows a run", _SHOWN, "{other} {cli} show {run}", 0, "generation 4 of 4"),
    _shell("another user without a home asks for help", "help", "{other} {cli} --help", 0, "evolve"),
    _shell("another user without a home asks for a schema", "the schema", "{other} {cli} schema", 0, "$schema"),
    _shell(
        "another user runs CMA-ME, whose numba finds no folder of its own",
        "the run completes; numba's cache is in ours",
        "{other} {cli} evolve {recipe} " + SEARCH + " --set strategy.kind=cma-me && {other} {cli} show run",
        0,
        "generation 1 of 1",
        "run/journal.jsonl",
        "cache/numba",
        CYCLEQD_CACHE="{tmp}/cache",
    ),
    _shell(
        "another user imports what ribs compiles, without any cache",
        "numba gets a temporary folder",
        "{other} {python} -c 'from cycleqd_merge.cache import give_numba_a_cache; "
        "give_numba_a_cache(); import numpy_groupies'",
        TMPDIR="{tmp}",
    ),
    _shell(
        "another user without a home evolves",
        _ONE_LINE,
        "{other} {cli} plan {recipe} --no-measure",
        2,
        "CYCLEQD_CACHE",
    ),
    _shell(
        "the home is read-only",
        _ONE_LINE,
        "{other} {cli} plan {recipe} --no-measure",
        2,
        "cache folder /.cache/cycleqd-merge/digests: cannot be used: Read-only file system; set CYCLEQD_CACHE",
        HOME="/",
    ),
    _shell(
        "the cache folder is a file",
        _ONE_LINE,
        "touch cache; {cli} plan {recipe} --no-measure",
        2,
        "/cache/digests: cannot be used: Not a directory; set CYCLEQD_CACHE",
        CYCLEQD_CACHE="{tmp}/cache",
    ),
    _shell(
        "show with a cache folder that is a file", _SHOWN, "{cli} show {run}", 0, "coverage", CYCLEQD_CACHE="/dev/null"
    ),
    _shell(
        "there is no temporary folder",
        _ONE_LINE,
        "cd /; {other} {cli} evolve {recipe} --set output={tmp}/run",
        1,
        "no temporary folder can be written",
        TMPDIR="/nonexistent",
        CYCLEQD_CACHE="{tmp}/cache",
    ),
    _shell("stdout is ASCII", _DROPPED, "{cli} show {run}", 0, "+--", PYTHONIOENCODING="ascii"),
    _shell("stdout is cp1252", _DROPPED, "{cli} show {run}", 0, "|", PYTHONIOENCODING="cp1252"),
    _shell("stdout is Latin-1", _DROPPED, "{cli} show {run} --elite best-mean", 0, "", PYTHONIOENCODING="latin-1"),
    _shell(
        "the C locale without UTF-8 mode",
        _DROPPED,
        "{cli} show {run}",
        0,
        "+--",
        LC_ALL="C",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
    ),
    _shell("help in ASCII", _DROPPED, "{cli} evolve --help", 0, "--fresh", PYTHONIOENCODING="ascii"),
    _shell(
        "JSON in ASCII",
        "valid JSON",
        "{cli} show {run} --json | {python} -m json.tool",
        0,
        '"best_mean"',
        PYTHONIOENCODING="ascii",
    ),
    _shell(
        "a search ends on an ASCII stdout",
        "exports and held-out scores are made",
        "{cli} evolve {recipe} " + f"{SEARCH} {FINISH}",
        0,
        "aggregate",
        "run/models",
        PYTHONIOENCODING="ascii",
    ),
    _shell(
        "the reader of a search ends at once",
        "the search, its exports and held-out scores are made",
        "{cli} evolve {recipe} " + f"{SEARCH} {FINISH}" + " | true; exit ${{PIPESTATUS[0]}}",
        0,
        "",
        "run/models",
    ),
    _shell("the reader of `show` ends", "no error", "{cli} show {run} | true; exit ${{PIPESTATUS[0]}}"),
    _shell("the reader of help ends", "no error", "{cli} --help | true; exit ${{PIPESTATUS[0]}}"),
    _shell("stdout is closed", "no error", "{cli} show {run} >&-"),
    _shell("all standard descriptors are closed", "no error", "{cli} show {run} <&- >&- 2>&-"),
    _shell("an error without stderr", "its exit code", "{cli} show nothing 2>&-", 2),
    _shell(
        "stdout is on a full disk",
        "an error, once the work is done",
        "{cli} show {run} > /dev/full",
        1,
        "No space left",
    ),
    _shell(
        "the current folder was deleted",
        "one line",
        "mkdir x; cd x; rmdir ../x; {cli} plan {recipe} --no-measure",
        1,
        "cd",
    ),
    _shell("show from a deleted folder", _SHOWN, "mkdir x; cd x; rmdir ../x; {cli} show {run}", 0, "coverage"),
    _shell(
        "the folder contains random.py and torch.py",
        "they are not imported",
        "for m in random torch json yaml; do echo 'raise SystemExit(77)' > $m.py; done; "
        "{python} -P -c 'from cycleqd_merge.cli import main; main()' show {run}",
        0,
        "coverage",
    ),
    _shell("python -OO", _SHOWN, "{cli} show {run} && {cli} --help", 0, "Evolve merges", PYTHONOPTIMIZE="2"),
    _shell("warnings are errors", _SHOWN, "{cli} show {run}", 0, "coverage", PYTHONWARNINGS="error"),
    _shell("64 open files", _SHOWN, "ulimit -n 64; {cli} show {run}", 0, "coverage"),
    _shell("a terminal of no columns", "help", "{cli} --help", 0, "evolve", COLUMNS="0"),
    _shell("a terminal of 20 columns", _SHOWN, "{cli} show {run}", 0, "coverage", COLUMNS="20", TERM="dumb"),
    _shell("a terminal of ² columns", _SHOWN, "{cli} show {run}", 0, "coverage", COLUMNS="²", LINES="²"),
    _shell("a path with bytes that are no text", "one line", "{cli} show $'x\\xff y%s'", 2, "not a run directory"),
    _shell("a path with a line break", "one line", "{cli} show $'x\\ny'", 2, "'x\\ny': not a run directory"),
    _shell("a path of 4,000 characters", "one line", "{cli} show $(printf 'a/%.0s' {{1..2000}})x", 2, "a/a/a"),
    _shell("umask 077 and a stdout file", _SHOWN, "umask 077; {cli} show {run} > out; cat out", 0, "coverage"),
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, models: Models) -> Path:
    """A recipe that tests do not change; they set its output."""
    return write_recipe(tmp_path_factory.mktemp("recipe"), models)


SLOW = {
    "another user runs CMA-ME, whose numba finds no folder of its own",
    "another user without a home evolves",
    "the home is read-only",
    "there is no temporary folder",
    "SIGTERM and SIGHUP at once",
    "the Hub answers 500 once to `info`",
    "the Hub answers 504 once to `info`",
    "the Hub answers 429 once to `download`",
    "the Hub answers 404 to `info` for good",
}
"""Attacks that take several seconds and have a faster relative in the table."""


def timed(attacks: list[Attack]) -> list[ParameterSet]:
    """As `cases`, with the slow ones marked."""
    return [
        pytest.param(*each.values, id=each.id, marks=[pytest.mark.slow] if each.id in SLOW else [])
        for each in cases(attacks)
    ]


@pytest.mark.parametrize("attack", timed(ATTACKS))
def test_a_machine_is_no_obstacle_or_one_line(attack: Attack, finished: CliRun, recipe: Path, tmp_path: Path) -> None:
    shell: Shell = attack.given
    names = {"cli": CLI, "python": sys.executable, "run": finished.folder, "recipe": recipe, "tmp": tmp_path}
    names["other"] = (
        OTHER_USER.format(tmp=tmp_path) + f" --chdir {'/' if shell.command.startswith('cd /;') else tmp_path}"
    )
    odd = "{other}" in shell.command
    inherited = {name: value for name, value in os.environ.items() if not (odd and name in ("HOME", "XDG_CACHE_HOME"))}
    inherited.pop("NUMBA_CACHE_DIR", None)
    if odd:
        inherited.pop("CYCLEQD_CACHE")
    stated = {name: value.format(**names) for name, value in shell.variables}
    done = subprocess.run(
        ["bash", "-c", shell.command.format(**names)],
        cwd=tmp_path,
        env={"TMPDIR": str(tmp_path), **inherited, "PYTHONPATH": str(ROOT), **stated},
        capture_output=True,
        timeout=120,
        check=False,
    )
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    assert done.returncode == shell.code, err
    assert shell.says in out + err
    for word in ("Traceback", "Exception ignored", "internal error"):
        assert word not in err
    if shell.code:
        assert len([line for line in err.splitlines() if line.startswith("error: ")]) <= 1
    for name in shell.made:
        assert (tmp_path / name).exists()


LATER = format_datetime(datetime.now(UTC) - timedelta(seconds=1), usegmt=True)
HUB_FAULTS = [
    Attack(
        KIND,
        f"the Hub answers {status} once to `{step}`{named}",
        "repeated; the plan succeeds",
        (step, status, headers),
    )
    for step, status, headers, named in [
        ("info", 429, {"Retry-After": "0"}, " (seconds)"),
        ("info", 429, {"Retry-After": LATER}, " (date)"),
        ("info", 429, {"RateLimit": '"api";r=0;t=0'}, " (RateLimit)"),
        ("info", 503, {}, ""),
        ("info", 500, {}, ""),
        ("info", 504, {}, ""),
        ("info", CUT_AFTER, {}, ""),
        ("tree", 503, {}, ""),
        ("download", 503, {}, ""),
        ("download", 429, {"Retry-After": "0"}, ""),
    ]
]
ATTACKS += HUB_FAULTS
REFUSALS = [
    Attack(KIND, f"the Hub answers {status} to `info` for good", outcome, (status, headers, requests))
    for status, headers, requests, outcome in [
        (403, {}, 1, "refused at once"),
        (404, {}, 1, "refused at once"),
        (429, {"Retry-After": "86400"}, 1, "refused at once: a day is too long"),
        (503, {}, 5, "refused after five tries"),
    ]
]
ATTACKS += REFUSALS


@pytest.fixture(scope="module")
def hub_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hub_recipe(
        tmp_path_factory.mktemp("hub"), "lab/base", {"a": "lab/base+lab/first", "b": "lab/base+lab/second"}
    )


@pytest.mark.parametrize("attack", timed(HUB_FAULTS))
def test_an_overloaded_hub_is_asked_again(attack: Attack, hub: LocalHub, parents: Parents, hub_recipe: Path) -> None:
    put_parents(hub, parents)
    step, status, headers = attack.given
    fault = hub.faults.add(step, status, times=1, headers=headers)
    answer = cycleqd_merge("plan", hub_recipe, "--no-measure")
    assert (answer.code, fault.met) == (0, 1), answer.err


@pytest.mark.parametrize("attack", timed(REFUSALS))
def test_a_hub_that_refuses_is_not_asked_for_ever(
    attack: Attack, hub: LocalHub, parents: Parents, hub_recipe: Path
) -> None:
    put_parents(hub, parents)
    status, headers, requests = attack.given
    fault = hub.faults.add("info", status, headers=headers)
    assert cycleqd_merge("plan", hub_recipe, "--no-measure", "--set", "experts.b=lab/base+lab/first").code == 2
    assert requests <= fault.met <= 3 * requests  # of the base and an adapter, and of the base's files


SIGNALS = [
    Attack(KIND, "the connection is dropped (SIGHUP)", "ends as SIGTERM does, no child is left", [signal.SIGHUP]),
    Attack(
        KIND, "Slurm's notice (SIGUSR1), after a stop", "the same", [signal.SIGTSTP, signal.SIGCONT, signal.SIGUSR1]
    ),
    Attack(KIND, "SIGTERM and SIGHUP at once", "they count as one", [signal.SIGTERM, signal.SIGHUP]),
]
ATTACKS += SIGNALS
NOHUP = Attack(KIND, "SIGHUP under nohup, then SIGTERM", "the first is ignored, the second ends the run")
ATTACKS.append(NOHUP)


@pytest.fixture
def searching(recipe: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A search that never ends, in the middle of its generations."""
    command = f"{CLI} evolve {recipe} --set evolution.generations=100000 --set output={tmp_path}/run"
    prefix = getattr(request, "param", "")
    process = subprocess.Popen(
        ["env", "--default-signal=HUP,INT,USR1", "bash", "-c", f"{prefix} exec {command} $MORE"],  # even under nohup
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OURS": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("generation 2/"):
            break
    yield process
    process.kill()
    process.wait()


def processes(marker: Path) -> list[int]:
    """The running processes that belong to a test, by the environment that they inherited."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"OURS={marker}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def require_ended(process: subprocess.Popen[str], marker: Path) -> None:
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted; resume with: cycleqd-merge evolve " in err
    assert len(err.splitlines()) == 1
    deadline = time.monotonic() + 20
    while processes(marker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes(marker) == []


@pytest.mark.parametrize("attack", timed(SIGNALS))
def test_a_signal_ends_a_run_in_order(attack: Attack, searching: subprocess.Popen[str], tmp_path: Path) -> None:
    for number in attack.given:
        os.kill(searching.pid, number)
    require_ended(searching, tmp_path)


@pytest.mark.parametrize("searching", ["trap '' HUP;"], indirect=True)
def test_nohup_is_respected(searching: subprocess.Popen[str], tmp_path: Path) -> None:
    os.kill(searching.pid, signal.SIGHUP)
    assert searching.stdout is not None
    assert searching.stdout.readline().startswith("generation 3/")
    os.kill(searching.pid, signal.SIGTERM)
    require_ended(searching, tmp_path)


RAY = [
    Attack(KIND, "a cluster that does not exist", "one line within seconds", ("127.0.0.1:9", None, "refused")),
    Attack(KIND, "`auto` with a stale RAY_ADDRESS", "one line within seconds", ("auto", "127.0.0.1:9", "RAY_ADDRESS")),
    Attack(KIND, "a cluster's address that is none", "one line", ("rubbish", None, "no cluster at rubbish")),
]
ATTACKS += RAY


@pytest.mark.parametrize("attack", cases(RAY))
def test_a_missing_cluster_is_one_line(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    address, stated, says = attack.given
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if stated is not None:
        monkeypatch.setenv("RAY_ADDRESS", stated)
    since = time.monotonic()
    with pytest.raises(RecipeError, match=says) as error:
        connect(address)
    assert len(str(error.value).splitlines()) == 1
    assert time.monotonic() - since < 60


STALE = Attack(KIND, "workers with a stale RAY_ADDRESS, then SIGHUP", "Ray on this host alone; no process is left")
CLUSTERS = [
    Attack(KIND, "a cluster with a token", "the line names the token", ("token", "", "refuses this process's token")),
    Attack(KIND, "a cluster of another version", "the line names both", ("disabled", "2.1.0", "has another version")),
]
ATTACKS += [STALE, *CLUSTERS]


@pytest.mark.slow
@pytest.mark.parametrize("searching", ["export RAY_ADDRESS=127.0.0.1:9 MORE='--set workers=2';"], indirect=True)
def test_a_stale_cluster_is_ignored_and_workers_end(searching: subprocess.Popen[str], tmp_path: Path) -> None:
    os.kill(searching.pid, signal.SIGHUP)
    require_ended(searching, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("attack", cases(CLUSTERS))
def test_a_cluster_that_refuses_is_not_a_missing_one(
    attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mode, version, says = attack.given
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    short = tempfile.mkdtemp(dir="/tmp")  # the paths of Ray's sockets have a limit
    disguise = f"ray.__version__ = {version!r}; " if version else ""
    start = f"import ray; {disguise}from ray.scripts.scripts import main; main()"
    options = [f"--port={port}", "--num-cpus=1", "--include-dashboard=false", "--disable-usage-stats"]
    environment = {**os.environ, "OURS": str(tmp_path), "RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": "a" * 64}
    command = [sys.executable, "-c", start, "start", "--head", f"--temp-dir={short}", *options]
    try:
        subprocess.run(command, env=environment, check=True, stdin=subprocess.DEVNULL, timeout=120)
        if mode == "disabled":
            monkeypatch.setenv("RAY_AUTH_MODE", mode)
        with pytest.raises(RecipeError, match=says):
            connect(f"127.0.0.1:{port}")
    finally:
        for process in processes(tmp_path):
            os.kill(process, signal.SIGKILL)
        shutil.rmtree(short, ignore_errors=True)
