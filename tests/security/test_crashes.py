"""Killed processes, and machines that fail in other ways, at exact instants: nothing is lost or half done."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from cycleqd_merge.journal.log import opened_journal
from tests.cli.conftest import Models, write_recipe
from tests.hub.address import BOUND
from tests.hub.conftest import ANN, TOKEN
from tests.hub.server import LocalHub
from tests.models import make_base, make_expert
from tests.run.synthetic import history
from tests.security.attacks import Attack
from tests.security.zygote import Ended, Zygote

KILLED, WRITTEN = -9, 0


@dataclass(frozen=True)
class Ground:
    """A finished run of tiny models, and the process that commands are forked from. Tests work on copies of the run."""

    folder: Path
    recipe: Path
    run: Path
    zygote: Zygote

    def fresh(self, name: str) -> Path:
        """A new folder, with a copy of the run in it."""
        folder = self.folder / name
        shutil.copytree(self.run, folder / "run", ignore=shutil.ignore_patterns("lock"))
        return folder


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Created once: it takes ten seconds."""
    folder = tmp_path_factory.mktemp("crashes")
    base = make_base(folder / "base", "llama")
    models = Models(base, make_expert(base, folder / "first", seed=1), make_expert(base, folder / "second", seed=2))
    recipe = write_recipe(folder / "recipe", models)
    environment = {
        "CYCLEQD_CACHE": str(folder / "cache"),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": TOKEN,
        "TMPDIR": str(folder),
    }
    with Zygote(environment) as zygote:
        ended = zygote("evolve", recipe)
        assert ended.code == 0, ended.err
        yield Ground(folder, recipe, folder / "recipe" / "run", zygote)


SLOW = {
    "killed while singular bases are computed and written",
    "killed while figures are written",
    "killed while a pull writes",
    "killed while a push writes",
    "no space left for figures",
    "no space left for a pulled run and the Hub's cache",
    "no space left for what a push records",
    "no space left for journal, log, lock and checks of a run",
    "no space left for digests and singular bases",
    "a cache of 16 KiB",
    "a page on 16 KiB",
    "figures on 16 KiB",
    "`plot` into a read-only folder",
    "`confirm` of a run in a read-only folder",
    "`evolve` into a read-only folder",
    "the base is replaced after a run by one of equal size and time",
    "a clock that is 230 years ahead",
    "a clock that jumps back and forth during the run",
}
"""Attacks of the same kinds as others, which take long."""


def parameters(attacks: list[Attack]) -> list[ParameterSet]:
    """The attacks as parameters of a test."""
    return [
        pytest.param(each, id=each.attack, marks=[pytest.mark.slow] if each.attack in SLOW else []) for each in attacks
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unfinished(folder: Path) -> list[str]:
    """What is left of files and folders that were not completed."""
    return [path.name for path in folder.rglob(".*.part*")]


def one_line(ended: Ended) -> str:
    """The error that a command ended with, which must be one line, not a defect of the program."""
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, ended
    assert "internal error" not in lines[0]
    assert "Traceback" not in ended.err
    return lines[0].removeprefix("error: ")


@dataclass(frozen=True)
class Writing:
    """A command that writes. arguments: `{here}` is the test's folder. result: what it writes there.

    count: the events at which it is killed, see `Zygote`. points: how many of them, spread evenly.
    """

    arguments: tuple[str, ...]
    result: str
    count: str = "disk"
    points: int = 20


WRITING = [
    Attack(
        "killed",
        "killed during export",
        "the model is absent or complete",
        Writing(("export", "{here}/run", "best-mean", "{here}/model"), "model"),
    ),
    Attack(
        "killed",
        "killed while the page is written",
        "the page is the old or the new one",
        Writing(("report", "{here}/run"), "run/report.html", "lines", 24),
    ),
    Attack(
        "killed",
        "killed while figures are written",
        "each figure is the old or the new one",
        Writing(("plot", "{here}/run"), "run/figures", "disk", 6),
    ),
    Attack(
        "killed",
        "killed during the requests of a pull",
        "the run is absent or complete",
        Writing(("pull", "ann/run-archive", "{here}/pulled"), "pulled", "requests"),
    ),
    Attack(
        "killed",
        "killed while a pull writes",
        "the run is absent or complete",
        Writing(("pull", "ann/run-archive", "{here}/pulled"), "pulled", "disk", 24),
    ),
]


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    """A Hub with ann signed in."""
    with LocalHub([ANN], BOUND) as running:
        yield running


def versions(result: Path) -> dict[str, bytes]:
    """What a reader sees of a result: its files, without hidden ones."""
    if result.is_file():
        return {result.name: result.read_bytes()}
    return {path: data for path, data in contents(result).items() if "/." not in f"/{path}"}


def spread(events: int, points: int) -> list[int]:
    """The numbers of at most `points` events out of `events`, the first and the last included."""
    return sorted({1 + round(step * (events - 1) / max(1, points - 1)) for step in range(points)})


@pytest.mark.parametrize("attack", parameters(WRITING))
def test_a_killed_command_leaves_the_old_or_the_new(
    attack: Attack, ground: Ground, hub: LocalHub, tmp_path: Path
) -> None:
    """Killed again and again, then run to its end: the bytes are those of a command that was never killed."""
    writing: Writing = attack.given
    here = ground.fresh(tmp_path.name)
    if writing.arguments[0] == "pull":
        assert ground.zygote("push", here / "run", "--repo", "ann/run", "--archive-only").code == 0
    arguments = [each.format(here=here) for each in writing.arguments]
    result = here / writing.result
    before = versions(result)
    known = set(os.listdir(result.parent)) | {result.name}
    shutil.rmtree(ground.folder / "hf", ignore_errors=True)
    whole = ground.zygote(*arguments, count=writing.count)
    assert whole.code == 0, whole.err
    wanted = versions(result)
    shutil.rmtree(result) if result.is_dir() else result.unlink()
    kills = 0
    for number in spread(whole.events, writing.points):
        shutil.rmtree(ground.folder / "hf", ignore_errors=True)
        ended = ground.zygote(*arguments, kill=number, count=writing.count)
        kills += ended.code == KILLED
        seen = versions(result) if result.exists() else before
        if writing.result in ("model", "pulled"):
            assert seen in (before, wanted), number
            shutil.rmtree(result, ignore_errors=True)
        else:
            assert seen.items() <= wanted.items(), number
        assert len(unfinished(here)) <= 1, number  # each attempt removes what the one before it left
    assert kills >= min(writing.points, whole.events) - 1
    assert ground.zygote(*arguments).code == 0
    assert versions(result) == wanted
    assert not unfinished(here)
    assert set(os.listdir(result.parent)) <= known


BASES = [Attack("killed", "killed while singular bases are computed and written", "the next run computes the others")]


@pytest.mark.parametrize("attack", parameters(BASES))
def test_singular_bases_of_killed_runs_are_completed(attack: Attack, ground: Ground, tmp_path: Path) -> None:
    cache, run = tmp_path / "cache", tmp_path / "run"
    arguments: tuple[object, ...] = ("evolve", ground.recipe, "--output", run)
    kills, code = 0, KILLED
    while code == KILLED and kills < 100:
        ended = ground.zygote(*arguments, kill=16 + kills + kills // 2, environment={"CYCLEQD_CACHE": str(cache)})
        code = ended.code
        kills += code == KILLED
        for manifest in (cache / "bases").glob("*/manifest.json"):
            listed = json.loads(manifest.read_text())["files"]
            assert listed.keys() == {path.stem for path in manifest.parent.glob("*.safetensors")}
    assert code == 0, ended.err
    assert kills >= 20
    assert history(run) == history(ground.run)
    assert bases(cache) == bases(ground.folder / "cache")
    assert not unfinished(cache) + unfinished(run)


def bases(cache: Path) -> dict[str, bytes]:
    """The stored bases of a cache."""
    return {path: data for path, data in contents(cache / "bases").items() if not path.endswith(".lock")}


PUSHES = [
    Attack("killed", "killed during the requests of a push", "`main` is the old or the new one", "requests"),
    Attack("killed", "killed while a push writes", "`main` is the old or the new one", "disk"),
]


@pytest.mark.parametrize("attack", parameters(PUSHES))
def test_a_killed_push_leaves_main_as_it_was_or_complete(
    attack: Attack, ground: Ground, hub: LocalHub, tmp_path: Path
) -> None:
    here = ground.fresh(tmp_path.name)
    push = ("push", here / "run", "--repo", "ann/run", "--archive-only")
    for _ in range(2):  # later pushes send fewer requests: the Hub has the large files
        hub.repos.clear()
        (here / "run" / "hub.json").unlink(missing_ok=True)
        whole = ground.zygote(*push, count=attack.given)
        assert whole.code == 0, whole.err
    wanted = trees(hub)
    for position, number in enumerate(spread(whole.events, 20)):
        hub.repos.clear()
        (here / "run" / "hub.json").unlink(missing_ok=True)
        assert ground.zygote(*push, count=attack.given, kill=number).code == KILLED
        seen = trees(hub)
        assert seen in ({}, {"ann/run-archive": {".gitattributes"}}, wanted), number
        if position % 6 == 5:
            again = ground.zygote(*push)
            assert again.code == 0, again.err
            assert trees(hub) == wanted
            assert len(hub.repo("ann/run-archive", "dataset").history()) == 2  # nothing was committed twice
            assert hub.repo("ann/run-archive", "dataset").tags
    assert not unfinished(here)


def trees(hub: LocalHub) -> dict[str, set[str]]:
    """The files of all repositories, by name."""
    return {name: set(repo.tree()) for (_, name), repo in hub.repos.items()}


@dataclass(frozen=True)
class Full:
    """A command on a disk that is full from some event on. place: part of the path that is named. every: stride."""

    arguments: tuple[str, ...]
    every: int = 1
    fresh_cache: bool = False


FULL = [
    Attack(
        "disk full",
        "no space left for an exported model",
        "one line, nothing left",
        Full(("export", "{here}/run", "best-mean", "{here}/model"), 4),
    ),
    Attack("disk full", "no space left for the page", "one line, nothing left", Full(("report", "{here}/run"))),
    Attack("disk full", "no space left for figures", "one line, nothing left", Full(("plot", "{here}/run"), 7)),
    Attack(
        "disk full",
        "no space left for a pulled run and the Hub's cache",
        "one line, nothing left",
        Full(("pull", "ann/run-archive", "{here}/pulled"), 5),
    ),
    Attack(
        "disk full",
        "no space left for what a push records",
        "one line, nothing left",
        Full(("push", "{here}/run", "--repo", "ann/run", "--archive-only"), 5),
    ),
    Attack(
        "disk full",
        "no space left for journal, log, lock and checks of a run",
        "one line, the run resumes",
        Full(("evolve", "{recipe}", "--output", "{here}/new"), 7),
    ),
    Attack(
        "disk full",
        "no space left for digests and singular bases",
        "one line, the run resumes",
        Full(("evolve", "{recipe}", "--output", "{here}/new"), 31, True),
    ),
]


@pytest.mark.parametrize("attack", parameters(FULL))
def test_a_full_disk_is_one_line_that_names_the_file(
    attack: Attack, ground: Ground, hub: LocalHub, tmp_path: Path
) -> None:
    case: Full = attack.given
    here = ground.fresh(tmp_path.name)
    assert ground.zygote("push", here / "run", "--repo", "ann/run", "--archive-only").code == 0
    repos = deepcopy(hub.repos)
    arguments = [each.format(here=here, recipe=ground.recipe) for each in case.arguments]
    environment = {"CYCLEQD_CACHE": str(here / "cache")} if case.fresh_cache else {}
    number, code = 1, None
    while code != 0:
        if case.arguments[0] == "push":
            hub.repos.clear()
            (here / "run" / "hub.json").unlink(missing_ok=True)
        else:
            hub.repos = deepcopy(repos)
        if case.fresh_cache:
            shutil.rmtree(here / "cache", ignore_errors=True)
        shutil.rmtree(ground.folder / "hf", ignore_errors=True)
        ended = ground.zygote(*arguments, full=number, environment=environment)
        code = ended.code
        if code != 0:
            line = one_line(ended)
            assert "free some space" in line, (number, line)
            assert str(ground.folder) in line, (number, line)  # TMPDIR is there, too
            assert not unfinished(here), number
        number += case.every
    assert number > case.every
    assert ground.zygote(*arguments, environment=environment).code in (0, 2)  # 2: it exists by now


@dataclass(frozen=True)
class Small:
    """A command on a file system of a few pages. place: where it is mounted, below the test's folder."""

    place: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    size: str = "16k"


SMALL = [
    Attack(
        "disk full",
        "a run folder of 4 KiB",
        "one line, then it resumes",
        Small("new", ("evolve", "{recipe}", "--output", "{here}/new"), {}, "4k"),
    ),
    Attack(
        "disk full",
        "a cache of 16 KiB",
        "one line, then it resumes",
        Small("cache", ("evolve", "{recipe}", "--output", "{here}/new"), {"CYCLEQD_CACHE": "{here}/cache"}),
    ),
    Attack(
        "disk full",
        "an export to 16 KiB",
        "one line, then it succeeds",
        Small("out", ("export", "{here}/run", "best-mean", "{here}/out/model"), {}),
    ),
    Attack(
        "disk full",
        "a page on 16 KiB",
        "one line, then it succeeds",
        Small("out", ("report", "{here}/run", "--output", "{here}/out/page.html"), {}),
    ),
    Attack(
        "disk full",
        "figures on 16 KiB",
        "one line, then it succeeds",
        Small("out", ("plot", "{here}/run", "--out", "{here}/out/figures"), {}),
    ),
    Attack(
        "disk full",
        "a pulled run on 16 KiB",
        "one line, then it succeeds",
        Small("out", ("pull", "ann/run-archive", "{here}/out/run"), {}, "4k"),
    ),
    Attack(
        "disk full",
        "a Hub cache of 16 KiB",
        "one line, then it succeeds",
        Small("hf", ("pull", "ann/run-archive", "{here}/pulled"), {"HF_HOME": "{here}/hf"}, "4k"),
    ),
]


@pytest.mark.parametrize("attack", parameters(SMALL))
def test_a_file_system_without_room_is_one_line_and_the_command_succeeds_once_there_is_some(
    attack: Attack, ground: Ground, hub: LocalHub, tmp_path: Path
) -> None:
    case: Small = attack.given
    here = ground.fresh(tmp_path.name)
    (here / case.place).mkdir()
    assert ground.zygote("push", here / "run", "--repo", "ann/run", "--archive-only").code == 0
    place = here / case.place
    before = ""
    if case.place == "hf":
        before = f"from huggingface_hub import constants; constants.HF_HUB_CACHE = {str(place / 'hub')!r}"
    if case.place == "tmp":
        before = "import tempfile; tempfile.tempdir = None"
    ended = ground.zygote(
        *(each.format(here=here, recipe=ground.recipe) for each in case.arguments),
        environment={name: value.format(here=here) for name, value in case.environment.items()},
        mounts=[("tmpfs", place, f"size={case.size}")],
        before=before,
        again=f"from tests.security.zygote import grow; grow({str(place)!r})",
    )
    line = one_line(ended)
    assert "free some space" in line
    assert str(place) in line
    assert ended.code == 0


READ_ONLY = [
    Attack("read-only", f"`{arguments[0]}` of a run in a read-only folder", "it works", arguments)
    for arguments in (
        ("show", "{here}/run"),
        ("plan", "{here}/run", "--output", "{here}/other"),
        ("evaluate", "{here}/run", "base", "--limit", "1"),
        ("report", "{here}/run", "--output", "{here}/page.html"),
        ("plot", "{here}/run", "--out", "{here}/figures"),
        ("export", "{here}/run", "best-mean", "{here}/model"),
    )
]


@pytest.mark.parametrize("attack", parameters(READ_ONLY))
def test_a_run_in_a_read_only_folder_can_be_looked_at(attack: Attack, ground: Ground, tmp_path: Path) -> None:
    here = ground.fresh(tmp_path.name)
    arguments = [each.format(here=here) for each in attack.given]
    ended = ground.zygote(*arguments, mounts=[("read-only", here / "run", "")], folder=here / "run")
    assert ended.code == 0, ended


REFUSED = [
    Attack("read-only", attack, "one line", (place, arguments))
    for attack, place, arguments in (
        ("`evolve` of a run in a read-only folder", "run", ("evolve", "{here}/run", "--generations", "5")),
        ("`report` into a read-only folder", "run", ("report", "{here}/run")),
        ("`plot` into a read-only folder", "run", ("plot", "{here}/run")),
        ("`confirm` of a run in a read-only folder", "run", ("confirm", "{here}/run")),
        ("`export` into a read-only folder", "out", ("export", "{here}/run", "best-mean", "{here}/out/model")),
        ("`pull` into a read-only folder", "out", ("pull", "ann/run-archive", "{here}/out/run")),
        ("`evolve` into a read-only folder", "out", ("evolve", "{recipe}", "--output", "{here}/out/run")),
        (
            "`push` of a run in a read-only folder",
            "run",
            ("push", "{here}/run", "--repo", "ann/other", "--archive-only"),
        ),
    )
]


@pytest.mark.parametrize("attack", parameters(REFUSED))
def test_writing_to_a_read_only_folder_is_one_line(
    attack: Attack, ground: Ground, hub: LocalHub, tmp_path: Path
) -> None:
    place, arguments = attack.given
    here = ground.fresh(tmp_path.name)
    (here / "out").mkdir()
    assert ground.zygote("push", here / "run", "--repo", "ann/run", "--archive-only").code == 0
    stated = [each.format(here=here, recipe=ground.recipe) for each in arguments]
    ended = ground.zygote(*stated, mounts=[("read-only", here / place, "")])
    assert ended.code in (1, 2)
    line = one_line(ended)
    assert "ead-only" in line
    assert str(here / place) in line


@dataclass(frozen=True)
class During:
    """What happens to a run's models or folder: `action` is Python code, in which `here` is the test's folder.

    It is executed after the third evaluation. line: part of the error; None if the run must end normally.
    """

    action: str
    line: str | None
    code: int = 2


_REWRITE = """
import os
from pathlib import Path
path = Path(here, {model!r}, 'model.safetensors')
status = path.stat()
data = bytearray(path.read_bytes())
data[-4:] = bytes(value ^ 1 for value in data[-4:])
{write}
os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
"""
_IN_PLACE = _REWRITE.format(model="first", write="with path.open('r+b') as file: file.write(data)")
_REPLACED = _REWRITE.format(
    model="base", write="Path(f'{path}.new').write_bytes(data); os.replace(f'{path}.new', path)"
)
DURING = [
    Attack(
        "changed model",
        "an expert is rewritten during a run, its size and modification time kept",
        "the run stops with one line",
        During(_IN_PLACE, "expert first: its files in {here}/first changed while they were in use; restore them"),
    ),
    Attack(
        "changed model",
        "the base is replaced during a run by one of equal size and modification time",
        "the run stops with one line",
        During(_REPLACED, "base: its files in {here}/base changed while they were in use; restore them"),
    ),
    Attack(
        "changed model",
        "an expert is deleted during a run",
        "the run stops with one line",
        During("import os; os.remove(f'{here}/second/model.safetensors')", "expert second: {here}/second/model.safe"),
    ),
    Attack(
        "changed model",
        "an expert is touched and linked during a run, its content unchanged",
        "the run goes on",
        During(
            "import os; os.utime(f'{here}/first/model.safetensors'); os.chmod(f'{here}/base/config.json', 0o600)", None
        ),
    ),
    Attack(
        "run folder",
        "the run folder is deleted during the run",
        "the run stops with one line: results would be lost",
        During("import shutil; shutil.rmtree(f'{here}/new')", "{here}/new/journal.jsonl: was deleted, moved or", 1),
    ),
    Attack(
        "run folder",
        "the run folder is moved during the run",
        "the run stops with one line",
        During(
            "import os; os.rename(f'{here}/new', f'{here}/moved')", "{here}/new/journal.jsonl: was deleted, moved or", 1
        ),
    ),
    Attack(
        "run folder",
        "the journal is replaced by an older copy during the run",
        "the run stops with one line",
        During(
            "import os, shutil; journal = f'{here}/new/journal.jsonl'; shutil.copy(journal, f'{here}/older'); "
            "os.replace(f'{here}/older', journal)",
            "{here}/new/journal.jsonl: was deleted, moved or replaced",
            1,
        ),
    ),
]
_AFTER_THE_THIRD = """
from cycleqd_merge.cli.display import EvolveDisplay
usual = EvolveDisplay.evaluated

def evaluated(display, run, event):
    usual(display, run, event)
    if event["number"] == 2:
        exec({action!r}, {{"here": {here!r}}})

EvolveDisplay.evaluated = evaluated
"""


def own_models(ground: Ground, here: Path) -> Path:
    """A recipe in `here` over copies of the models there, which a test may change."""
    for model in ("base", "first", "second"):
        shutil.copytree(ground.folder / model, here / model)
    shutil.copytree(ground.recipe.parent, here / "recipe", ignore=shutil.ignore_patterns("run"))
    recipe = here / "recipe" / "recipe.yaml"
    recipe.write_text(ground.recipe.read_text().replace(str(ground.folder), str(here)))
    return recipe


@pytest.mark.parametrize("attack", parameters(DURING))
def test_a_run_whose_models_or_folder_change_stops(attack: Attack, ground: Ground, tmp_path: Path) -> None:
    during: During = attack.given
    recipe = own_models(ground, tmp_path)
    ended = ground.zygote(
        "evolve",
        recipe,
        "--output",
        tmp_path / "new",
        before=_AFTER_THE_THIRD.format(action=during.action, here=str(tmp_path)),
    )
    if during.line is None:
        assert ended.code == 0, ended
    else:
        assert one_line(ended).startswith(during.line.format(here=tmp_path)), ended.err
        assert ended.code == during.code


CHANGED = [
    Attack(
        "changed model",
        "an expert is rewritten after a run, its size and modification time kept",
        "one line",
        _IN_PLACE,
    ),
    Attack("changed model", "the base is replaced after a run by one of equal size and time", "one line", _REPLACED),
]


@pytest.mark.parametrize("attack", parameters(CHANGED))
def test_a_changed_model_is_noticed_by_its_content(attack: Attack, ground: Ground, tmp_path: Path) -> None:
    recipe, run = own_models(ground, tmp_path), tmp_path / "run"
    assert ground.zygote("evolve", recipe, "--output", run).code == 0
    exec(attack.given, {"here": str(tmp_path)})
    for arguments in (("export", run, "best-mean", tmp_path / "model"), ("evolve", run, "--generations", 5)):
        ended = ground.zygote(*arguments)
        assert ended.code == 2
        assert "experts.first: '" in ended.err or "base: '" in ended.err  # the digests, then and now
        assert "internal error" not in ended.err
        assert not (tmp_path / "model").exists()


YEAR = 365.25 * 24 * 3600
_STEPS = """
import itertools, time
steps = itertools.cycle((0.0, 1e8, -1e8, 3.0))
now = time.time
time.time = lambda: now() + next(steps)
"""
CLOCKS = [
    Attack("clock", "a clock that shows 1970", "the same run", (-56 * YEAR, "")),
    Attack("clock", "a clock that is 230 years ahead", "the same run", (230 * YEAR, "")),
    Attack("clock", "a clock beyond the last year that can be written", "the same run", (9000 * YEAR, "")),
    Attack("clock", "a clock that jumps back and forth during the run", "the same run", (0.0, _STEPS)),
]


@pytest.mark.parametrize("attack", parameters(CLOCKS))
def test_a_wrong_clock_changes_nothing(attack: Attack, ground: Ground, tmp_path: Path) -> None:
    shift, before = attack.given
    run = tmp_path / "run"
    for arguments in (
        ("evolve", ground.recipe, "--output", run, "--generations", "2"),
        ("evolve", run, "--generations", "4"),
        ("report", run),
        ("show", run),
    ):
        ended = ground.zygote(*arguments, shift=shift, before=before)
        assert ended.code == 0, ended
        shift = -shift  # the next session has a clock that is wrong in the other direction
    assert [event for event in history(run) if event["event"] == "result"] == [
        event for event in history(ground.run) if event["event"] == "result"
    ]


_NO_LOCKS = """
import errno, fcntl, os

def flock(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

fcntl.flock = flock
"""
FOLDERS = [
    Attack("run folder", "a file system without locks", "one line that says so", "no locks"),
    Attack("run folder", "two processes on one run", "the second ends with one line", "two"),
    Attack("run folder", "a run folder that was renamed between sessions", "it resumes", "renamed"),
    Attack("run folder", "a run folder that is a link", "it resumes", "link"),
    Attack("run folder", "a journal that is a link", "it resumes, and the link stays", "journal link"),
    Attack("run folder", "a page that is a link", "the file that it names is replaced", "page link"),
    Attack("run folder", "an export to a link to nothing", "one line", "dangling"),
]


@pytest.mark.parametrize("attack", parameters(FOLDERS))
def test_unusual_run_folders(attack: Attack, ground: Ground, tmp_path: Path) -> None:
    here = ground.fresh(tmp_path.name)
    run, extend = here / "run", ("--generations", "5")
    elsewhere = here / "elsewhere"
    if attack.given == "no locks":
        ended = ground.zygote("evolve", run, *extend, before=_NO_LOCKS)
        assert ended.code == 1
        assert "file locks" in one_line(ended)
        assert ground.zygote("show", run, before=_NO_LOCKS).code == 0
        assert ground.zygote("report", run, before=_NO_LOCKS).code == 0
        return
    if attack.given == "two":
        with opened_journal(run):
            ended = ground.zygote("evolve", run, *extend)
        assert ended.code == 2
        assert one_line(ended) == f"{run}: another process is using this run; wait until it ends"
    elif attack.given == "renamed":
        run = run.rename(elsewhere)
    elif attack.given == "link":
        run = Path(shutil.move(run, elsewhere))
        (here / "run").symlink_to(elsewhere)
        run = here / "run"
    elif attack.given == "journal link":
        shutil.move(run / "journal.jsonl", elsewhere)
        (run / "journal.jsonl").symlink_to(elsewhere)
    elif attack.given == "page link":
        elsewhere.write_text("old")
        (run / "report.html").symlink_to(elsewhere)
        assert ground.zygote("report", run).code == 0
        assert elsewhere.read_text().startswith("<!doctype html>")
        assert (run / "report.html").is_symlink()
    elif attack.given == "dangling":
        elsewhere.symlink_to(here / "nothing")
        ended = ground.zygote("export", run, "best-mean", elsewhere)
        assert ended.code == 2
        assert str(elsewhere) in one_line(ended)
    ended = ground.zygote("evolve", run, *extend)
    assert ended.code == 0, ended
    assert [event["number"] for event in history(run) if event["event"] == "result"] == list(range(7))
    assert attack.given != "journal link" or (run / "journal.jsonl").is_symlink()


ATTACKS = [*WRITING, *BASES, *PUSHES, *FULL, *SMALL, *READ_ONLY, *REFUSED, *DURING, *CHANGED, *CLOCKS, *FOLDERS]
