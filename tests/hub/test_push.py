"""`push`: which files go where, in how many commits, and what stays untouched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from cycleqd_merge import open_run, pull, push
from cycleqd_merge.hub.draft import Pushed
from tests.cli.conftest import cycleqd_merge
from tests.hub.conftest import Parents, pushed, table, write_recipe
from tests.hub.server import LocalHub

ARCHIVE, MODEL = "ann/run-archive", "ann/run"


def test_the_archive_holds_every_elite_and_every_generation(hub: LocalHub, run: Path) -> None:
    pushed(run, "--repo", MODEL, "--archive-only")
    state = open_run(run)
    rows = table(hub, ARCHIVE, "data/elites.parquet")
    elites = [elite for archive in state.archives for elite in archive.elites()]
    assert [row["evaluation"] for row in rows] == [elite.number for elite in elites]
    assert [tuple(row["cell"]) for row in rows] == [elite.cell for elite in elites]
    for row, elite in zip(rows, elites, strict=True):
        assert row["archive"] == state.objectives[elite.task]
        assert (row["search_vowels"], row["search_letters"]) == state.scores(elite.number)
        assert json.loads(row["genome"]) == state.search.genome(elite.number).to_json()
    generations = table(hub, ARCHIVE, "data/generations.parquet")
    assert [(row["search_vowels"], row["search_letters"]) for row in generations] == [
        state.scores(number) for number in range(6)
    ]
    assert hub.repo(ARCHIVE, "dataset").tags == {"gen-4": hub.repo(ARCHIVE, "dataset").resolve("main")}


def test_push_and_pull_from_python_take_strings(hub: LocalHub, run: Path, tmp_path: Path) -> None:
    (planned,) = push(str(run), repo=MODEL, archive_only=True, dry=True)
    assert planned.commit is None
    reported = list[Pushed]()
    (done,) = push(str(run), repo=MODEL, archive_only=True, on_pushed=reported.append)
    assert reported == [done]
    assert done.commit == hub.repo(ARCHIVE, "dataset").resolve("main")
    pulled, missing = pull(ARCHIVE, str(tmp_path / "pulled"))
    assert pulled.elites() == open_run(str(run)).elites()
    assert all(path.startswith("rows/") for path in missing)


def test_nothing_of_this_machine_is_published(hub: LocalHub, run: Path, original: Path) -> None:
    pushed(run, "--repo", MODEL, "--rows")
    for kind, repo in (("dataset", ARCHIVE), ("model", MODEL)):
        for path in hub.repo(repo, kind).tree():
            content = hub.read(repo, path, kind)
            assert str(original.parent).encode() not in content, path
            assert b"/parents" not in content, path


def test_strategies_for_comparisons_are_published_without_paths(
    hub: LocalHub, parents: Parents, tmp_path: Path
) -> None:
    own = {"mine": {"strategy": {"kind": "python", "target": "mine.py:Mine", "options": {"start": str(parents.base)}}}}
    experts = {"tuned": str(parents.tuned), "adapted": f"{parents.base}+{parents.first}"}
    recipe = write_recipe(tmp_path, str(parents.base), experts, strategies=own, evolution={"generations": 0})
    assert cycleqd_merge("evolve", recipe).code == 0
    assert str(tmp_path / "mine.py") in (tmp_path / "run" / "journal.jsonl").read_text()
    pushed(tmp_path / "run", "--repo", MODEL, "--archive-only")
    for path in hub.repo(ARCHIVE, "dataset").tree():
        content = hub.read(ARCHIVE, path, "dataset")
        assert str(tmp_path).encode() not in content, path
        assert b"/parents" not in content, path
    assert cycleqd_merge("pull", ARCHIVE, tmp_path / "there").code == 2
    local = ["--set", f"base={parents.base}", "--set", f"experts.adapted={parents.base}+{parents.first}"]
    assert cycleqd_merge("pull", ARCHIVE, tmp_path / "there", "--trust-remote-code", *local).code == 0
    strategy = open_run(tmp_path / "there").recipe.strategies["mine"].strategy
    assert strategy.model_dump()["target"] == f"{tmp_path / 'there' / 'mine.py'}:Mine"
    assert strategy.model_dump()["options"] == {"start": str(parents.base)}


def test_each_repository_gets_one_commit_and_none_when_nothing_has_changed(hub: LocalHub, run: Path) -> None:
    pushed(run, "--repo", MODEL, "--elites", "all-best")
    before = {repo: hub.repo(repo, kind).history() for repo, kind in ((ARCHIVE, "dataset"), (MODEL, "model"))}
    assert {repo: len(commits) for repo, commits in before.items()} == {ARCHIVE: 2, MODEL: 2}  # the first is empty
    hub.requests.clear()
    answer = pushed(run, "--repo", MODEL, "--elites", "all-best")
    assert answer.out.count("nothing has changed") == 2
    assert {repo: hub.repo(repo, kind).history() for repo, kind in ((ARCHIVE, "dataset"), (MODEL, "model"))} == before
    assert not {"commit", "blob", "batch", "tag"} & set(hub.steps())


def test_a_longer_run_pushes_only_what_is_new(hub: LocalHub, run: Path) -> None:
    pushed(run, "--repo", MODEL, "--archive-only", "--rows")
    assert cycleqd_merge("evolve", run, "--generations", 5).code == 0
    hub.requests.clear()
    answer = cycleqd_merge("push", run, "--repo", MODEL, "--archive-only", "--rows", "--json")
    (report,) = answer.json
    assert "journal.jsonl" in report["files"]
    assert not [path for path in report["files"] if path.startswith("rows/")]
    assert set(hub.repo(ARCHIVE, "dataset").tags) == {"gen-4", "gen-5"}


def test_dry_run_shows_everything_and_writes_nothing(hub: LocalHub, run: Path) -> None:
    journal = (run / "journal.jsonl").read_bytes()
    answer = pushed(run, "--repo", MODEL, "--elites", "best:vowels", "--dry-run")
    assert "dataset ann/run-archive: would push" in answer.out
    assert "  data/elites.parquet " in answer.out
    assert "  best-vowels/model.safetensors " in answer.out
    assert not hub.repos
    assert {method for _, method, _ in hub.requests} <= {"GET", "HEAD"}
    assert (run / "journal.jsonl").read_bytes() == journal
    assert not (run / "hub.json").exists()


def test_separate_repositories_are_added_to_a_collection(hub: LocalHub, run: Path) -> None:
    pushed(run, "--repo", MODEL, "--elites", "best:vowels", "--elites", "aggregate", "--layout", "repos")
    assert {name for kind, name in hub.repos if kind == "model"} == {
        MODEL, f"{MODEL}-best-vowels", f"{MODEL}-aggregate"
    }  # fmt: skip
    (collection,) = hub.collections.values()
    assert {item["id"] for item in collection["items"]} == {name for _, name in hub.repos}
    genome = json.loads(hub.read(f"{MODEL}-aggregate", "genome.json"))
    assert genome["genome"] == open_run(run).aggregate().to_json()


def test_models_that_are_no_longer_chosen_are_removed_and_other_files_stay(hub: LocalHub, run: Path) -> None:
    pushed(run, "--repo", MODEL, "--elites", "best:vowels")
    assert "best-vowels/model.safetensors" in hub.repo(MODEL).tree()
    commit = hub.put(MODEL, {"notes.txt": b"by hand"})
    pushed(run, "--repo", MODEL, "--onto", commit, "--elites", "aggregate")
    tree = hub.repo(MODEL).tree()
    assert "aggregate/model.safetensors" in tree
    assert "notes.txt" in tree
    assert not [path for path in tree if path.startswith("best-vowels/")]


def test_private_and_pull_requests_and_branches(hub: LocalHub, run: Path) -> None:
    pushed(run, "--repo", MODEL, "--private", "--archive-only")
    archive = hub.repo(ARCHIVE, "dataset")
    assert archive.private
    head = archive.resolve("main")
    assert cycleqd_merge("evolve", run, "--generations", 5).code == 0
    pushed(run, "--repo", MODEL, "--archive-only", "--create-pr")
    assert (archive.resolve("main"), len(archive.pull_requests)) == (head, 1)
    pushed(run, "--repo", MODEL, "--archive-only", "--revision", "try")
    assert archive.resolve("main") == head
    assert archive.resolve("try") != head
    pushed(run, "--repo", MODEL, "--archive-only")  # neither of the two moved main
    assert archive.resolve("main") != head


def test_a_foreign_commit_on_main_is_reported_and_not_overwritten(hub: LocalHub, run: Path) -> None:
    pushed(run, "--repo", MODEL, "--archive-only")
    foreign = hub.put(ARCHIVE, {"README.md": b"written by hand"}, "dataset")
    answer = cycleqd_merge("push", run, "--repo", MODEL, "--archive-only")
    assert answer.code == 1
    assert f"--onto {foreign}" in answer.err
    assert hub.repo(ARCHIVE, "dataset").resolve("main") == foreign


def test_the_recipe_can_state_everything(hub: LocalHub, run: Path) -> None:
    settings = '{"repo": "lab/run", "root": "aggregate", "elites": ["best"]}'
    assert cycleqd_merge("evolve", run, "--set", f"hub={settings}").code == 0
    assert {name for _, name in hub.repos} == {"lab/run", "lab/run-archive"}
    assert json.loads(hub.read("lab/run", "genome.json"))["name"] == "aggregate"
    assert json.loads(hub.read("lab/run", "best-mean/genome.json"))["name"] == "best-mean"
    assert "nothing has changed" in pushed(run).out


def test_the_page_is_pushed_as_a_static_space(hub: LocalHub, run: Path) -> None:
    pushed(run, "--repo", MODEL, "--space", "--root", "aggregate")
    page, card = (hub.read(MODEL, path, "space").decode() for path in ("index.html", "README.md"))
    assert "sdk: static" in card
    assert "vowels" in page
    assert str(run) not in page
    assert "/parents" not in page


def test_the_card_describes_the_model(hub: LocalHub, run: Path) -> None:
    pushed(run, "--repo", MODEL, "--license", "apache-2.0", "--elites", "best:vowels")
    card = hub.read(MODEL, "README.md").decode()
    assert "license: apache-2.0" in card
    assert "best-vowels" in card
    assert "archives.png" in card
    assert "merge_method: " in card


def test_models_in_subfolders_have_cards_of_their_own(hub: LocalHub, run: Path) -> None:
    for license in ("mit", "apache-2.0"):  # built, then published already
        pushed(run, "--repo", MODEL, "--license", license, "--elites", "best:vowels")
        card = hub.read(MODEL, "best-vowels/README.md").decode()
        assert f"license: {license}" in card
        assert "# run/best-vowels" in card
        assert 'AutoTokenizer.from_pretrained("ann/run", subfolder="best-vowels")' in card
        assert "hf download ann/run best-vowels/mergekit_config.yml" in card
        assert "merge_method: " in card
        assert "Further models" not in card
    pushed(run, "--repo", MODEL, "--license", "mit")
    assert not [path for path in hub.repo(MODEL).tree() if path.startswith("best-vowels/")]


def test_content_of_others_is_not_overwritten(hub: LocalHub, run: Path, longer: Path, tmp_path: Path) -> None:
    head = hub.put("ann/mine", {"config.json": b"{}", "model.safetensors": b"years of work"})
    answer = cycleqd_merge("push", run, "--repo", "ann/mine")
    assert answer.code == 1
    assert "model ann/mine: has content that is not from this run, and was not overwritten; push to a " in answer.err
    assert hub.read("ann/mine", "model.safetensors") == b"years of work"
    pushed(run, "--repo", "ann/mine", "--onto", head)
    assert hub.read("ann/mine", "model.safetensors") != b"years of work"


def test_a_continuation_pushed_from_elsewhere_is_accepted_and_never_reverted(
    hub: LocalHub, run: Path, longer: Path, tmp_path: Path
) -> None:
    pushed(run, "--repo", MODEL)
    further = tmp_path / "further"
    shutil.copytree(longer, further)
    pushed(further, "--repo", MODEL)  # never pushed from here before
    head = hub.repo(ARCHIVE, "dataset").resolve("main")
    earlier = tmp_path / "earlier"
    shutil.copytree(run, earlier)
    (earlier / "hub.json").unlink()
    answer = cycleqd_merge("push", earlier, "--repo", MODEL)
    assert (answer.code, "has content that is not from this run" in answer.err) == (1, True)
    assert hub.repo(ARCHIVE, "dataset").resolve("main") == head


def test_a_different_run_is_not_overwritten(hub: LocalHub, run: Path, tmp_path: Path) -> None:
    pushed(run, "--repo", MODEL, "--archive-only")
    fork = tmp_path / "fork"
    assert cycleqd_merge("fork", run, fork, "--set", "evolution.generations=0").code == 0
    answer = cycleqd_merge("push", fork, "--repo", MODEL, "--archive-only")
    assert (answer.code, "has content that is not from this run" in answer.err) == (1, True)
