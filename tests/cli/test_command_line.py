"""Options of every command, version, completion, and how failures and interruptions are reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cycleqd_merge import cli
from cycleqd_merge.cli.printing import console, print_progress
from cycleqd_merge.cli.verbosity import set_verbosity
from cycleqd_merge.errors import Interrupted
from cycleqd_merge.run.observer import Observer
from cycleqd_merge.run.state import Run
from tests.cli.conftest import Answer, Models, cycleqd_merge, write_recipe
from tests.report.runs import make_run

ENTRY = [sys.executable, "-c", "from cycleqd_merge.cli import main; main()"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of synthetic scores."""
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, generations=5)
    return folder


def test_version_is_the_one_of_the_package() -> None:
    answer = cycleqd_merge("--version")
    assert (answer.code, answer.out) == (0, f"cycleqd-merge {version('cycleqd-merge')}\n")


@pytest.mark.parametrize(
    ("words", "wanted"), [("cycleqd-merge ev", {"evolve", "evaluate"}), ("cycleqd-merge evolve --fr", {"--fresh"})]
)
def test_the_shell_completes_commands_and_options(words: str, wanted: set[str]) -> None:
    place = str(len(words.split()) - 1)
    request = {"_CYCLEQD_MERGE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": place}
    printed = subprocess.run(ENTRY, env={**os.environ, **request}, capture_output=True, text=True, check=False)
    assert {line.partition(",")[0] for line in printed.stdout.split()} == wanted, printed.stderr


def test_a_completion_script_can_be_installed() -> None:
    assert "--install-completion" in cycleqd_merge("--help").out


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["show", "run", "--debug"], ["--debug", "show", "run"]),
        (["--verbose", "show", "run"], ["--verbose", "show", "run"]),
        (["task", "check", "x", "--quiet", "--json"], ["--quiet", "task", "check", "x", "--json"]),
        (["show", "--", "--debug"], ["show", "--", "--debug"]),
    ],
)
def test_common_options_are_accepted_anywhere(arguments: list[str], wanted: list[str]) -> None:
    assert cli.common_options_first(arguments) == wanted


@pytest.mark.parametrize("option", ["--debug", "--quiet", "--verbose"])
def test_common_options_before_and_after_a_command_print_the_same(run: Path, option: str) -> None:
    usual = cycleqd_merge("show", run)
    assert usual.code == 0
    assert cycleqd_merge("show", run, option) == cycleqd_merge(option, "show", run) == usual


def test_quiet_and_verbose_exclude_each_other(run: Path) -> None:
    for other in ("--verbose", "--debug"):
        answer = cycleqd_merge("show", run, "--quiet", other)
        assert answer.code == 2
        assert "--quiet cannot be combined with --verbose or --debug" in " ".join(answer.err.split())


TWICE = """
import sys
from cycleqd_merge.cli import main

command = sys.argv
for option in ("--quiet", "--verbose"):
    sys.argv = [*command, option]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code
    for stream in (sys.stdout, sys.stderr):
        print("END", file=stream, flush=True)
"""
"""Runs a command twice in a process whose logging nobody else has set up."""


def test_quiet_prints_results_and_verbose_adds_debug_messages(models: Models, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, models, finish={"heldout": True})
    command = [sys.executable, "-c", TWICE, "evolve", str(recipe), "--generations", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    (quiet, verbose, _), (quiet_err, verbose_err, _) = ended.stdout.split("END\n"), ended.stderr.split("END\n")
    assert quiet.splitlines()[0].strip() == "Archives"
    assert "Scores on the held-out split" in quiet
    assert (quiet_err, "generation 1/1" in quiet) == ("", False)
    assert verbose.splitlines()[0] == "resuming after generation 1"
    assert verbose.endswith(quiet)
    assert "DEBUG: models and tasks opened: 2 tasks, 1 coefficient groups" in verbose_err


def raising(monkeypatch: pytest.MonkeyPatch, error: type[BaseException], *message: str) -> None:
    """Let `show` raise an error."""

    def fail(folder: Path) -> Run:
        raise error(*message)

    monkeypatch.setattr("cycleqd_merge.run.state.open_run", fail)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A program with an internal error in `show`."""
    raising(monkeypatch, ZeroDivisionError, "nothing to divide\nby nothing")
    return


@pytest.mark.usefixtures("broken")
def test_an_internal_error_is_one_line_with_the_command_that_shows_its_traceback() -> None:
    answer = cycleqd_merge("show", "my run", "--verbose")
    assert answer.code == 1
    assert answer.err == (
        "error: ZeroDivisionError: nothing to divide (internal error; for a traceback run "
        "`cycleqd-merge --debug show 'my run' --verbose`)\n"
    )


def test_a_file_that_ends_early_is_an_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Typer turns an EOFError into its own Abort, which would end the command in silence."""
    raising(monkeypatch, EOFError, "Ran out of input")
    answer = cycleqd_merge("show", "run")
    assert answer.code == 1
    assert answer.err.strip().startswith("error: EOFError: Ran out of input (internal error; ")
    assert "\nEOFError: Ran out of input" in cycleqd_merge("show", "run", "--debug").err


def test_an_interrupted_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, KeyboardInterrupt)
    assert cycleqd_merge("show", "run") == Answer(130, "", "interrupted\n")


def test_sigterm_lets_a_command_remove_its_temporary_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def terminated(folder: Path) -> Run:
        with TemporaryDirectory(dir=tmp_path):
            signal.raise_signal(signal.SIGTERM)
        raise AssertionError("not terminated")

    monkeypatch.setattr("cycleqd_merge.run.state.open_run", terminated)
    assert cycleqd_merge("show", "run") == Answer(130, "", "interrupted\n")
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("arguments", [("--debug", "show", "run"), ("show", "run", "--debug")])
def test_debug_shows_the_traceback_before_and_after_the_command(
    arguments: tuple[str, ...],
) -> None:
    answer = cycleqd_merge(*arguments)
    assert answer.code == 1
    assert answer.err.startswith("Traceback ")
    assert "\nZeroDivisionError: nothing to divide" in answer.err
    assert answer.err.splitlines()[-1] == "error: ZeroDivisionError: nothing to divide (internal error)"


def test_debug_keeps_the_exit_code_of_a_user_error(tmp_path: Path) -> None:
    answer = cycleqd_merge("show", tmp_path, "--debug")
    assert answer.code == 2
    assert answer.err.startswith("Traceback ")
    assert answer.err.splitlines()[-1] == f"error: {tmp_path}: not a run directory (no journal.jsonl)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "No such command 'nothing'; see `cycleqd-merge --help`"),
        (("evolve",), "Missing argument 'RECIPE'; see `cycleqd-merge evolve --help`"),
        (("show", "run", "--elit"), "No such option"),
        (("evolve", "recipe.yaml", "--generations", "-1"), "Invalid value for '--generations'"),
        (("show", "run", "--quiet", "--debug"), "--quiet cannot be combined with --verbose or --debug"),
    ],
)
def test_wrong_usage_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    answer = cycleqd_merge(*arguments)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert answer.err.startswith("error: ")
    assert message in answer.err


@pytest.mark.parametrize("arguments", [(), ("task",)])
def test_a_missing_command_prints_help_alone(arguments: tuple[str, ...]) -> None:
    answer = cycleqd_merge(*arguments)
    assert (answer.code, answer.err) == (2, "")
    assert "Commands" in answer.out


@pytest.mark.parametrize("arguments", [("evolve", "recipe.yaml", "--fresh"), ("fork", "run", "fork")])
def test_an_interrupted_fork_or_fresh_run_is_resumed_by_its_directory(
    monkeypatch: pytest.MonkeyPatch, run: Path, tmp_path: Path, models: Models, arguments: tuple[str, ...]
) -> None:
    """The same command would start another run, or be refused."""
    write_recipe(tmp_path, models)

    def interrupted(recipe: object, observer: Observer, **_: object) -> None:
        observer.started(make_run(tmp_path / "started", generations=1, output="runs/new"))
        raise Interrupted("interrupted")

    monkeypatch.setattr("cycleqd_merge.session.evolve.evolve", interrupted)
    monkeypatch.setattr("cycleqd_merge.session.fork.fork", lambda *_: (None, [{"from": 2}]))
    monkeypatch.chdir(tmp_path)
    answer = cycleqd_merge(*arguments)
    assert (answer.code, answer.err) == (130, "interrupted; resume with: cycleqd-merge evolve runs/new\n")


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_reader_that_ends_early_is_no_error(run: Path, options: tuple[str, ...]) -> None:
    """As in `cycleqd-merge show RUN | head -1`."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "cycleqd_merge", "show", str(run), *options]
    with os.fdopen(write, "w") as closed:
        ended = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_json_goes_to_a_program_alone(run: Path) -> None:
    assert json.loads(cycleqd_merge("show", run, "--json", "--verbose").out)["tasks"]


def test_quiet_silences_progress_on_either_stream(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet, shown in ((True, ""), (False, "progress\n")):
        set_verbosity(quiet, verbose=False)
        console(progress=True).print("progress")
        console(stderr=True).print("progress")
        print_progress("progress")
        console().print("result")
        assert capsys.readouterr() == (f"{shown}result\n", 2 * shown)


@pytest.mark.parametrize(("quiet", "printed"), [(True, ""), (False, "WARNING: a notice\n")])
def test_quiet_keeps_warnings_in_the_log_of_a_run(tmp_path: Path, quiet: bool, printed: str) -> None:
    code = f"""
import logging
from cycleqd_merge.cli.verbosity import set_verbosity
from cycleqd_merge.session.run_log import logging_to
from pathlib import Path

set_verbosity({quiet}, verbose=False)
with logging_to(Path("run.log")):
    logging.getLogger("cycleqd_merge.session.search").warning("a notice")
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stderr == printed
    assert "WARNING cycleqd_merge.session.search: a notice" in (tmp_path / "run.log").read_text()
