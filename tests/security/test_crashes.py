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

from tests.cli.conftest import Models, write_recipe
from tests.hub.address import BOUND
from tests.hub.conftest import ANN, TOKEN
from tests.hub.server import LocalHub
from tests.models import make_base, make_expert
from tests.run.synthetic import history
from tests.security.attacks import Attack, cases
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


@pytest.mark.parametrize("attack", cases(WRITING))
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


@pytest.mark.parametrize("attack", cases(BASES))
def test_singular_bases_of_killed_runs_are_completed(attack: Attack, ground: Ground, tmp_path: Path) -> None:
    cache, run = tmp_path / "cache", tmp_path / "run"
    arguments: tuple[object, ...] = ("evolve", ground.recipe, "--output", run)
    kills, code = 0, KILLED
    while code == KILLED and kills < 100:
        ended = ground.zygote(*arguments, kill=12 + kills // 2 + kills % 3, environment={"CYCLEQD_CACHE": str(cache)})
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


@pytest.mark.parametrize("attack", cases(PUSHES))
def test_a_killed_push_leaves_main_as_it_was_or_complete(
    attack: Attack, ground: Ground, hub: LocalHub, tmp_path: Path
) -> None:
    here = ground.fresh(tmp_path.name)
    push = ("push", here / "run", "--repo", "ann/run", "--archive-only")
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


@pytest.mark.parametrize("attack", cases(FULL))
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
            assert line.startswith(str(ground.folder)), (number, line)  # TMPDIR is there, too
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
        "a run folder of 16 KiB",
        "one line, then it resumes",
        Small("new", ("evolve", "{recipe}", "--output", "{here}/new"), {}),
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
    Attack(
        "disk full",
        "a temporary folder of 16 KiB",
        "one line, then it succeeds",
        Small("tmp", ("evolve", "{recipe}", "--output", "{here}/new"), {"TMPDIR": "{here}/tmp"}),
    ),
]


@pytest.mark.parametrize("attack", cases(SMALL))
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
    assert line.startswith(str(place)), line
    assert ended.code == 0


READ_ONLY = [
    Attack("read-only", f"`{arguments[0]}` of a run in a read-only folder", "it works", arguments)
    for arguments in (
        ("show", "{here}/run"),
        ("plan", "{here}/run"),
        ("report", "{here}/run", "--output", "{here}/page.html"),
        ("plot", "{here}/run", "--out", "{here}/figures"),
        ("export", "{here}/run", "best-mean", "{here}/model"),
    )
]


@pytest.mark.parametrize("attack", cases(READ_ONLY))
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
        ("`evaluate` of a run in a read-only folder", "run", ("evaluate", "{here}/run", "base", "--limit", "1")),
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


@pytest.mark.parametrize("attack", cases(REFUSED))
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
