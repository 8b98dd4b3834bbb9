"""Published recipes are data from strangers: they run nothing and reach nothing of the puller's unless asked."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml

from cycleqd_merge.run.state import open_run
from tests.cli.conftest import MUTATION, cycleqd_merge
from tests.hub.address import BOUND
from tests.hub.conftest import sign_in
from tests.hub.server import LocalHub, User
from tests.models import make_adapter, make_base, make_expert, make_rows
from tests.security.attacks import Attack, cases

TOKEN = "hf_ThePullersToken"
KIND = "foreign recipe"
Recipe = dict[str, Any]
Events = list[dict[str, Any]]
SHA = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class World:
    """A Hub with a published run. files: those of its archive. run: the publisher's own."""

    hub: LocalHub
    files: Mapping[str, bytes]
    run: Path
    ran: Path
    evil: str
    published: list[str] = field(default_factory=list)

    def publish(self, change: Callable[[Events], None], more: Mapping[str, bytes] | None = None) -> str:
        """Publish the run with changed events, as somebody with bad intentions might; returns the repository."""
        events = [json.loads(line) for line in self.files["journal.jsonl"].splitlines()]
        change(events)
        recipe = yaml.safe_dump({**yaml.safe_load(self.files["recipe.yaml"]), **events[1]["recipe"]}, sort_keys=False)
        lines = "".join(json.dumps(event) + "\n" for event in events)
        repo = f"bob/run{len(self.published)}-archive"
        self.published.append(repo)
        changed = {**self.files, "journal.jsonl": lines.encode(), "recipe.yaml": recipe.encode(), **(more or {})}
        self.hub.put(repo, changed, "dataset")
        return repo


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home, folder = tmp_path_factory.mktemp("hf"), tmp_path_factory.mktemp("publisher")
    with pytest.MonkeyPatch.context() as patch:
        sign_in(patch, home, TOKEN)
        with LocalHub([User("ann", TOKEN), User("bob", "hf_bob")], BOUND) as hub:
            base = make_base(folder / "base", "llama")
            hub.put("lab/base", base)
            hub.put("lab/tuned", make_expert(base, folder / "tuned", seed=1))
            hub.put("lab/first", make_adapter(base, folder / "first", seed=2))
            recipe = folder / "recipe.yaml"
            recipe.write_text(json.dumps(_recipe(folder)))
            answer = cycleqd_merge("evolve", recipe)
            assert answer.code == 0, answer.err
            answer = cycleqd_merge("push", folder / "run", "--repo", "ann/run", "--archive-only", "--rows")
            assert answer.code == 0, answer.err
            repo = "ann/run-archive"
            files = {path: hub.read(repo, path, "dataset") for path in hub.repo(repo, "dataset").tree()}
            here = tmp_path_factory.mktemp("puller")
            ran = here / "ran"
            (here / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\ndef score(a, b): return 1.0\n")
            yield World(hub, files, folder / "run", ran, f"{here}/evil.py:Evil")
        huggingface_hub.close_session()


def _recipe(folder: Path) -> Recipe:
    tasks = []
    for name, expert in (("vowels", "tuned"), ("letters", "adapted")):
        for split, seed in (("search", 1), ("heldout", 2)):
            make_rows(folder / f"{name}-{split}.jsonl", 12, "abc", seed=seed + len(name))
        data = {split: {"path": f"{name}-{split}.jsonl"} for split in ("search", "heldout")}
        scorer = {"kind": "multiple_choice", "choices": list("abc")}
        task = {"kind": "generate", "data": data, "prompt": "{{ question }}: ", "scorer": scorer, "max_new_tokens": 2}
        tasks.append({"task": task, "name": name, "expert": expert, "bounds": [0.0, 1.0]})
    return {
        "base": "lab/base",
        "experts": {"tuned": "lab/tuned", "adapted": "lab/base+lab/first"},
        "tasks": tasks,
        "evolution": {"generations": 2, "in_flight": 2, "bins": 4, "seed": 1, "mutation": MUTATION},
        "output": str(folder / "run"),
    }


@pytest.fixture
def here(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The puller's current directory."""
    world.ran.unlink(missing_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- Values that `pull` refuses ---------------------------------------------------------------------------------------


def recipe_with(**keys: Any) -> Callable[[Events, str], None]:
    """Set sections of the recipe."""

    def change(events: Events, evil: str) -> None:
        events[1]["recipe"].update(_with_evil(keys, evil))

    return change


def task_with(*remove: str, **keys: Any) -> Callable[[Events, str], None]:
    """Set keys of the first task's definition."""

    def change(events: Events, evil: str) -> None:
        task = events[1]["recipe"]["tasks"][0]["task"]
        for key in remove:
            del task[key]
        task.update(_with_evil(keys, evil))

    return change


def task_is(task: Any, **revisions: str) -> Callable[[Events, str], None]:
    def change(events: Events, evil: str) -> None:
        events[1]["recipe"]["tasks"][0]["task"] = _with_evil(task, evil)

    return change


def rows_from(revisions: Mapping[str, str] | None = None, **source: Any) -> Callable[[Events, str], None]:
    """Read the first task's rows from another source."""

    def change(events: Events, evil: str) -> None:
        events[1]["recipe"]["tasks"][0]["task"]["data"] = {"rows": source}
        events[1]["recipe"]["revisions"].update(revisions or {})

    return change


def start_with(**keys: Any) -> Callable[[Events, str], None]:
    def change(events: Events, evil: str) -> None:
        events[0].update(keys)

    return change


def evolution_with(**keys: Any) -> Callable[[Events, str], None]:
    def change(events: Events, evil: str) -> None:
        events[1]["recipe"]["evolution"].update(keys)

    return change


def experts_with(name: str, reference: str) -> Callable[[Events, str], None]:
    def change(events: Events, evil: str) -> None:
        events[1]["recipe"]["experts"][name] = reference

    return change


def revisions_with(**revisions: str) -> Callable[[Events, str], None]:
    def change(events: Events, evil: str) -> None:
        events[1]["recipe"]["revisions"]["lab/base"] = revisions["base"]

    return change


def unpinned(events: Events, evil: str) -> None:
    del events[1]["recipe"]["revisions"]["lab/tuned"]


def escape_in_error(events: Events, evil: str) -> None:
    result = next(event for event in events if event["event"] == "result")
    result["error"] = "\x1b]0;owned\x07"


def other_event(events: Events, evil: str) -> None:
    events.append({"event": "install", "path": "/etc/passwd"})


def _with_evil(value: Any, evil: str) -> Any:
    return json.loads(json.dumps(value).replace("EVIL", json.dumps(evil)[1:-1]))


SHELL = {"kind": "os_interaction", "data": {"rows": {"path": "rows/x.jsonl"}}, "prompt": "{{ x }}", "chat": True}
CODE = {"kind": "code", "data": {"rows": {"path": "rows/x.jsonl"}}, "prompt": "{{ x }}"}
HARNESS = {"kind": "lm_eval", "task": "gsm8k"}
PYTHON_TASK = {"kind": "python", "target": "EVIL"}
DIGEST = "0" * 64
CODE_LINE, REFUSED_LINE = "its recipe runs code (", "refused: "
OUTSIDE = "is outside the run's folder"
_INVALID = (
    "a name consists of",
    "a name consists",
    "unknown key",
    "must be at most",
    "in_flight",
    "control",
    "not commits",
    "event",
)
"""Parts of lines about values that no recipe may have."""

_RUNS_CODE: dict[str, Callable[[Events, str], None]] = {
    "inline Python task": task_is(PYTHON_TASK),
    "Python scorer": task_with(scorer={"kind": "python", "target": "EVIL"}),
    "Python strategy": recipe_with(strategy={"kind": "python", "target": "EVIL"}),
    "Python strategy for comparisons": recipe_with(
        strategies={"x": {"strategy": {"kind": "python", "target": "EVIL"}}}
    ),
    "Python strategy under the deprecated key": recipe_with(
        searches={"x": {"strategy": {"kind": "python", "target": "EVIL"}}}
    ),
    "importable target": recipe_with(strategy={"kind": "python", "target": "os:system"}),
    "trust_remote_code": recipe_with(models={"trust_remote_code": True}),
    "pickles": recipe_with(models={"pickles": True}),
    "options of vLLM": recipe_with(engine={"kind": "vllm", "options": {"worker_cls": "evil"}}),
    "overrides of an lm_eval task": task_is({**HARNESS, "overrides": {"doc_to_text": "{{ ''.__class__ }}"}}),
    "folder of lm_eval tasks": task_is({**HARNESS, "include": "rows"}),
}
_REFUSED: dict[str, tuple[Callable[[Events, str], None], str]] = {
    "lm_eval task file": (task_is({"kind": "lm_eval", "task": "rows/evil.yaml"}), "not a plain name"),
    "lm_eval task that is a folder of the puller's": (task_is({"kind": "lm_eval", "task": "own"}), "a file here"),
    "lm_eval metric that is a path": (task_is({**HARNESS, "metric": "../x"}), "not a plain name"),
    "lm_eval task file by URL": (task_is({"kind": "lm_eval", "task": "hf://a/b.yaml"}), "not a plain name"),
    "rows by an absolute path": (rows_from(path="/etc/passwd"), OUTSIDE),
    "rows above the folder": (rows_from(path="rows/../../secret.jsonl"), OUTSIDE),
    "rows with a name of several lines": (rows_from(path="rows/x\nerror: y.jsonl"), OUTSIDE),
    "rows of the home folder": (rows_from(path="~/secret.jsonl"), OUTSIDE),
    "rows by a file URL": (rows_from(url="file:///etc/passwd.csv", sha256=DIGEST), "only https://"),
    "rows over http": (rows_from(url="http://example.com/x.csv", sha256=DIGEST), "only https://"),
    "rows over ftp": (rows_from(url="ftp://example.com/x.csv", sha256=DIGEST), "only https://"),
    "rows as a data URL": (rows_from(url="data:text/csv,a", sha256=DIGEST), "only https://"),
    "rows of this machine's web server": (rows_from(url="https://localhost/x.csv", sha256=DIGEST), "only https://"),
    "rows of a metadata service": (rows_from(url="https://169.254.169.254/x.csv", sha256=DIGEST), "only https://"),
    "rows of a short address": (rows_from(url="https://127.1/x.csv", sha256=DIGEST), "only https://"),
    "rows of a hexadecimal address": (rows_from(url="https://0x7f000001/x.csv", sha256=DIGEST), "only https://"),
    "rows of an IPv6 address": (rows_from(url="https://[::1]/x.csv", sha256=DIGEST), "only https://"),
    "rows of an intranet": (rows_from(url="https://wiki.corp/x.csv", sha256=DIGEST), "only https://"),
    "rows of a host without a domain": (rows_from(url="https://wiki/x.csv", sha256=DIGEST), "only https://"),
    "rows with a password in the address": (
        rows_from(url="https://a:b@example.com/x.csv", sha256=DIGEST),
        "only https",
    ),
    "rows of another port": (rows_from(url="https://example.com:8443/x.csv", sha256=DIGEST), "only https://"),
    "dataset by an absolute path": (rows_from(dataset="/etc"), OUTSIDE),
    "dataset above the folder": (rows_from(dataset="../secret"), OUTSIDE),
    "dataset that is a loader of local JSON files": (rows_from({"datasets/json": SHA}, dataset="json"), "its owner"),
    "dataset that is a loader of local texts": (rows_from({"datasets/text": SHA}, dataset="text"), "its owner"),
    "dataset that is a loader of local images": (rows_from(dataset="imagefolder", revision=SHA), "its owner"),
    "dataset by a URL": (rows_from(dataset="hf://datasets/a/b"), "is not a dataset on the Hub"),
    "dataset at a branch": (rows_from(dataset="lab/rows", revision="main"), "has no commit"),
    "dataset at a branch that is pinned to a branch": (
        rows_from({"datasets/lab/rows": "main"}, dataset="lab/rows"),
        "not a commit",
    ),
    "dataset that is a folder of the puller's": (
        rows_from({"datasets/own/rows": SHA}, dataset="own/rows"),
        "a folder here",
    ),
    "dataset configuration that is a path": (
        rows_from({"datasets/lab/rows": SHA}, dataset="lab/rows", config="../x"),
        "not a plain name",
    ),
    "base by an absolute path": (recipe_with(base="/etc"), OUTSIDE),
    "base of the home folder": (recipe_with(base="~/models/private"), OUTSIDE),
    "base above a placeholder": (recipe_with(base="./models/../../private"), OUTSIDE),
    "adapter by an absolute path": (experts_with("adapted", "lab/base+/etc"), OUTSIDE),
    "base that is a folder of the puller's": (recipe_with(base="own/model"), "a folder here"),
    "adapter that is a folder of the puller's": (experts_with("adapted", "lab/base+own/model"), "a folder here"),
    "model above a Hub id": (experts_with("tuned", "lab/.."), OUTSIDE),
    "model without a commit": (unpinned, "has no commit"),
    "model at a branch without a commit": (experts_with("tuned", "lab/tuned@main"), "has no commit"),
    "model pinned to a branch": (revisions_with(base="main"), "not a commit"),
    "model pinned to a pull request": (revisions_with(base="refs/pr/1"), "not a commit"),
    "start pinned to a branch": (start_with(revisions={"lab/other": "main"}), "not commits"),
    "chat template by an absolute path": (recipe_with(models={"chat_template": "/etc/passwd"}), OUTSIDE),
    "chat template above the folder": (recipe_with(models={"chat_template": "../../x.jinja"}), OUTSIDE),
    "scripts by an absolute path": (task_is({**SHELL, "scripts": "/etc"}), OUTSIDE),
    "scripts above the folder": (task_is({**SHELL, "scripts": "../.."}), OUTSIDE),
    "root file system by a path": (task_is({**SHELL, "root": "../../../../.."}), "not a plain name"),
    "task by an absolute path": (task_is("/etc/passwd"), "neither defined"),
    "task above the folder": (task_is("../evil.yaml"), "neither defined"),
    "task of the archive": (task_is("rows/evil.yaml"), "neither defined"),
    "task of the current directory": (task_is("mine.yaml"), "neither defined"),
    "task of the current directory without an ending": (task_is("mine"), "neither defined"),
    "answers without end": (task_with(max_new_tokens=10**6), "the limit"),
    "all generations": (evolution_with(generations=10**15), "must be at most"),
    "all children at once": (evolution_with(in_flight=10**9), "must be at most"),
    "all proposals at once": (start_with(in_flight=10**9), "in_flight"),
    "proposals without number": (start_with(in_flight="all"), "in_flight"),
    "expert that is a path": (experts_with("../../x", "lab/tuned"), "a name consists of"),
    "task that is a path": (
        lambda events, _: events[1]["recipe"]["tasks"][0].update(name="../../x"),
        "a name consists",
    ),
    "strategy that is a path": (recipe_with(strategies={"../x": {}}), "a name consists of"),
    "a grid of merges without end": (
        recipe_with(
            strategies={"x": {"strategy": {"kind": "mergekit", "grid": {"ties": dict.fromkeys("abcdef", [0.5] * 20)}}}}
        ),
        "the limit",
    ),
    "keys of a later version": (recipe_with(judge={"endpoint": "http://localhost"}), "unknown key"),
    "huge archives": (evolution_with(bins=10**9), "must be at most"),
    "huge axis": (lambda events, _: events[1]["recipe"]["tasks"][0].update(bins=10**9), "must be at most"),
    "all memory": (task_is({**CODE, "memory": 10**6}), "the limit"),
    "time without end": (task_is({**CODE, "seconds": 10**5}), "the limit"),
    "all boxes": (task_is({**SHELL, "boxes": 1000}), "the limit"),
    "rounds without end": (task_is({**SHELL, "rounds": 5000}), "the limit"),
    "huge batches": (recipe_with(engine={"kind": "transformers", "batch_size": 10**5}), "the limit"),
    "merge methods by a path": (
        recipe_with(strategies={"x": {"strategy": {"kind": "mergekit", "methods": ["../evil"]}}}),
        "not a plain name",
    ),
    "terminal escapes in a group's name": (start_with(groups=["\x1b]0;owned\x07"]), "control"),
    "terminal escapes in an error": (escape_in_error, "control"),
    "reversed text in a session": (
        lambda events, _: events[1].update(environment={"python": "\u202e3.12"}),
        "control",
    ),
    "unknown event": (other_event, "event"),
}
REFUSED = [
    *(Attack(KIND, name, "pull refuses it, nothing runs", (change, CODE_LINE)) for name, change in _RUNS_CODE.items()),
    *(Attack(KIND, name, "pull refuses it", given) for name, given in _REFUSED.items()),
]


@pytest.mark.parametrize("attack", cases(REFUSED))
def test_pull_refuses_it(attack: Attack, world: World, here: Path) -> None:
    change, reason = attack.given
    (here / "own" / "model").mkdir(parents=True)
    (here / "own" / "rows").mkdir()
    for name in ("mine", "mine.yaml"):
        (here / name).write_text(json.dumps({"kind": "python", "target": world.evil}))
    repo = world.publish(lambda events: change(events, world.evil))
    for trust in ([], ["--trust-remote-code"]) if reason != CODE_LINE else ([],):
        answer = cycleqd_merge("pull", repo, here / "there", *trust)
        assert answer.code == 2, (answer.out, answer.err)
        begin = CODE_LINE if reason == CODE_LINE else REFUSED_LINE
        assert answer.err.startswith("error: " if reason in _INVALID else f"error: dataset {repo}: {begin}")
        assert reason in answer.err
        assert answer.err.count("\n") == 1
        assert answer.err[:-1].isprintable()
        assert not (here / "there").exists()
        assert not world.ran.exists()


# -- Settings that `pull` leaves out ----------------------------------------------------------------------------------

_DROPPED: dict[str, tuple[Recipe, str]] = {
    "publish with the puller's token": ({"hub": {"repo": "ann/mine", "rows": True, "space": True}}, "hub"),
    "connect to the publisher's cluster": ({"ray_address": "ray://evil.example:10001"}, "ray_address"),
    "take all workers": ({"workers": 1000}, "workers"),
    "fill the disk with exports": ({"finish": {"export": ["best-mean"], "heldout": True}}, "finish"),
    "set environment variables": (
        {"engine": {"kind": "vllm", "environment": {"LD_PRELOAD": "/tmp/x.so"}}},
        "engine.environment",
    ),
    "put engines on one GPU": ({"workers": "auto", "engine": {"kind": "vllm", "per_gpu": 8}}, "engine.per_gpu"),
    "pin all memory": ({"engine": {"kind": "vllm", "place": "host"}}, "engine.place"),
    "choose the device": ({"engine": {"kind": "transformers", "device": "cuda:7"}}, "engine.device"),
    "take all threads": ({"engine": {"kind": "transformers", "threads": 1000}}, "engine.threads"),
    "write elsewhere": ({"output": "/tmp/elsewhere"}, ""),
    "say that the reader trusts it": (
        {"foreign": {"folder": "/", "own": [["base"]], "trust_remote_code": True}, "workers": 2},
        "workers",
    ),
}
DROPPED = [Attack(KIND, name, "left out, reported in one line", given) for name, given in _DROPPED.items()]


@pytest.mark.parametrize("attack", cases(DROPPED))
def test_pull_leaves_it_out(attack: Attack, world: World, here: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys, reported = attack.given
    repo = world.publish(lambda events: events[1]["recipe"].update(keys))
    assert cycleqd_merge("pull", repo, here / "there").code == 0
    lines = [record.getMessage() for record in caplog.records if "ignored" in record.getMessage()]
    assert len(lines) == (1 if reported else 0)
    assert all(reported in line for line in lines)
    recipe = open_run(here / "there").recipe
    assert (recipe.hub, recipe.ray_address, recipe.workers, recipe.finish.export) == (None, None, 1, [])
    assert recipe.output == str(here / "there")
    stated = recipe.engine.model_dump(exclude_unset=True)
    assert not {"environment", "per_gpu", "place", "device", "threads"} & set(stated)
    if "foreign" in keys:
        assert recipe.foreign is not None
        assert (recipe.foreign.trust_remote_code, recipe.foreign.folder) == (False, str(here / "there"))


# -- Ways around `pull`, and what follows it --------------------------------------------------------------------------


def evil_strategy(world: World) -> Callable[[Events], None]:
    return lambda events: events[1]["recipe"].update(strategy={"kind": "python", "target": world.evil})


def downloaded(world: World, repo: str, here: Path, way: str) -> Path:
    """The folder of an archive that the reader downloaded without `pull`."""
    if way == "cache":
        return Path(huggingface_hub.snapshot_download(repo, repo_type="dataset"))
    if way.endswith(" that a link leads to"):
        link = here / "link"
        link.symlink_to(downloaded(world, repo, here, way.partition(" ")[0]))
        return link
    folder = here / "downloaded"
    if way == "folder":
        return Path(huggingface_hub.snapshot_download(repo, repo_type="dataset", local_dir=folder))
    for path in world.hub.repo(repo, "dataset").tree():  # by a browser, say
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(world.hub.read(repo, path, "dataset"))
    return folder


DOWNLOADED = [
    Attack(KIND, f"{command} of an archive downloaded to a {way}", "refused in one line, nothing runs", (command, way))
    for way in ("cache", "folder", "copy", "cache that a link leads to", "folder that a link leads to")
    for command in ("plan recipe.yaml", "evolve recipe.yaml", "show .", "evolve .", "plan .", "export .", "push .")
] + [
    Attack(KIND, f"{command} of a downloaded archive", "refused in one line, nothing runs", (command, "folder"))
    for command in ("compare recipe.yaml", "fork .", "evaluate .", "plot .", "report .", "confirm .")
]


@pytest.mark.parametrize("attack", cases(DOWNLOADED))
def test_a_download_is_foreign_too(attack: Attack, world: World, here: Path) -> None:
    command, way = attack.given
    repo = world.publish(evil_strategy(world))
    folder = downloaded(world, repo, here, way)
    verb, _, place = command.partition(" ")
    more = {"export": ["best-mean", here / "model"], "push": ["--repo", "ann/x"], "evolve": ["--output", here / "out"]}
    more |= {"fork": [here / "out"], "compare": ["--output", here / "out"]}
    answer = cycleqd_merge(verb, folder / place, *more.get(verb, []))
    assert answer.code == 2, (answer.out, answer.err)
    assert f"its recipe runs code ({world.evil})" in answer.err
    assert answer.err.count("\n") == 1
    assert not world.ran.exists()


def test_show_prints_no_escapes_of_a_download(world: World, here: Path) -> None:
    repo = world.publish(lambda events: events[0].update(groups=["\x1b]0;owned\x07"]))
    for way in ("cache", "folder"):
        answer = cycleqd_merge("show", downloaded(world, repo, here, way))
        assert answer.code == 2
        assert "\x1b" not in answer.out + answer.err


def test_a_downloaded_recipe_leaves_out_its_settings(
    world: World, here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    repo = world.publish(lambda events: events[1]["recipe"].update(hub={"repo": "ann/mine"}, ray_address="auto"))
    for way in ("cache", "folder", "copy"):
        caplog.clear()
        folder = downloaded(world, repo, here, way)
        answer = cycleqd_merge("plan", folder / "recipe.yaml", "--no-measure", "--json")
        assert answer.code == 0, answer.err
        assert sum("ignored" in record.getMessage() for record in caplog.records) == 1


def test_plan_runs_no_task_of_the_hubs_cache(world: World, here: Path) -> None:
    """The blobs of the cache have predictable names, so an archive can name its own files by absolute paths."""
    evil = json.dumps({"kind": "python", "target": world.evil}).encode()
    repo = world.publish(lambda events: None, {"rows/evil.yaml": evil})
    path = Path(huggingface_hub.snapshot_download(repo, repo_type="dataset")) / "rows" / "evil.yaml"
    again = world.publish(lambda events: events[1]["recipe"]["tasks"][0].update(task=str(path)))
    for command in (("pull", again, here / "there"), ("plan", downloaded(world, again, here, "copy") / "recipe.yaml")):
        answer = cycleqd_merge(*command)
        assert answer.code == 2
        assert "neither defined in its recipe nor a shipped task" in answer.err
        assert not world.ran.exists()


def test_a_shipped_task_is_never_a_file_of_the_current_directory(world: World, here: Path) -> None:
    repo = world.publish(lambda events: events[1]["recipe"]["tasks"][0].update(task="mbpp-plus"))
    (here / "mbpp-plus").write_text(json.dumps({"kind": "python", "target": world.evil}))
    assert cycleqd_merge("pull", repo, here / "there").code == 0
    assert open_run(here / "there").recipe.tasks[0].task == "mbpp-plus"
    assert cycleqd_merge("plan", here / "there", "--no-measure").code == 2
    assert not world.ran.exists()


def test_an_lm_eval_task_is_never_a_folder_of_the_archive(world: World, here: Path) -> None:
    """Files of such a folder may name Python functions, which lm-evaluation-harness calls."""
    file = b"task: rows\ndoc_to_text: !function evil.text\n"
    change = task_is({"kind": "lm_eval", "task": "rows"})
    more = {"rows/rows.yaml": file, "rows/evil.py": f"open({str(world.ran)!r}, 'w')\n".encode()}
    repo = world.publish(lambda events: change(events, ""), more)
    cycleqd_merge("pull", repo, here / "there")
    os.chdir(here / "there")
    answer = cycleqd_merge("plan", ".", "--no-measure")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert not world.ran.exists()


def test_a_united_run_executes_nothing_of_a_download(world: World, here: Path) -> None:
    good, bad = world.publish(lambda events: None), world.publish(evil_strategy(world))
    for way in ("cache", "folder", "copy"):
        other = downloaded(world, bad, here, way)
        answer = cycleqd_merge("pull", good, here / "there", "--merge", other)
        assert (answer.code, "its recipe runs code" in answer.err) == (2, True)
        assert not world.ran.exists()
        assert not (here / "there").exists()
    assert cycleqd_merge("pull", good, here / "there", "--merge", bad).code == 2


FOLLOWING = [
    Attack(KIND, f"a link to the puller's files in a pulled folder, {command}", "refused", command)
    for command in ("evolve", "plan", "fork", "copied", "resumed", "forked", "united", "export", "report")
]


@pytest.mark.parametrize("attack", cases(FOLLOWING))
def test_a_pulled_folder_remembers_that_it_is_foreign(attack: Attack, world: World, here: Path) -> None:
    there, command = here / "there", attack.given
    repo = world.publish(lambda events: None)
    merge = ["--merge", world.publish(lambda events: None)] if command == "united" else []
    assert cycleqd_merge("pull", repo, there, *merge).code == 0
    used = there
    if command == "resumed":
        assert cycleqd_merge("evolve", there, "--generations", 3).code == 0
    if command == "copied":
        used = Path(shutil.copytree(there, here / "copy"))
    if command == "forked":
        assert cycleqd_merge("fork", there, here / "fork", "--set", "evolution.generations=0").code == 0
        used = here / "fork"
    (here / "secret.jsonl").write_text((there / "rows" / "vowels-vowels-search.jsonl").read_text())
    (there / "rows" / "vowels-vowels-search.jsonl").unlink()
    (there / "rows" / "vowels-vowels-search.jsonl").symlink_to(here / "secret.jsonl")
    more = {"plan": ["--no-measure"], "fork": [here / "new"], "export": ["best-mean", here / "model"]}
    verb = command if command in more or command == "report" else "evolve"
    answer = cycleqd_merge(verb, used, *more.get(verb, []))
    assert answer.code == 2, (answer.out, answer.err)
    assert "vowels-search.jsonl is outside the run's folder" in answer.err
    assert answer.err.count("\n") == 1


def test_the_reader_decides_otherwise_key_by_key(world: World, here: Path) -> None:
    def change(events: Events) -> None:
        events[1]["recipe"]["tasks"][0]["task"]["data"]["search"]["path"] = "/etc/passwd"
        events[1]["recipe"]["tasks"][1]["task"]["data"]["search"]["path"] = "/etc/group"

    repo, mine = world.publish(change), here / "mine.jsonl"
    mine.write_bytes(world.files["rows/vowels-vowels-search.jsonl"])
    one = ["--set", f"tasks.0.task.data.search.path={mine}"]
    answer = cycleqd_merge("pull", repo, here / "there", *one)
    assert answer.code == 2
    assert "/etc/group is outside" in answer.err
    assert "passwd" not in answer.err
    both = [*one, "--set", f"tasks.1.task.data.search.path={mine}"]
    assert cycleqd_merge("pull", repo, here / "there", *both).code == 0
    recipe = open_run(here / "there").recipe
    assert recipe.foreign is not None
    assert ["tasks", 0, "task", "data", "search", "path"] in recipe.foreign.own


def test_settings_of_the_reader_are_kept(world: World, here: Path) -> None:
    """Also in sections that are left out of what the stranger states."""
    stated = {"hub": {"repo": "ann/theirs", "rows": True, "private": True}, "workers": 7}
    repo = world.publish(lambda events: events[1]["recipe"].update(stated))
    mine = ["--set", "hub.repo=ann/mine", "--set", "engine.threads=2", "--set", "finish.heldout=true"]
    assert cycleqd_merge("pull", repo, here / "there", *mine).code == 0
    assert cycleqd_merge("evolve", here / "there", "--set", "hub.root=null", "--set", "hub.every=2").code == 0
    recipe = open_run(here / "there").recipe
    assert recipe.hub is not None
    assert (recipe.hub.repo, recipe.hub.rows, recipe.hub.private, recipe.hub.every) == ("ann/mine", False, False, 2)
    assert (recipe.workers, recipe.engine.model_dump()["threads"], recipe.finish.heldout) == (1, 2, True)


def test_push_warns_of_what_pull_refuses(world: World, here: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Path(shutil.copytree(world.run, here / "run", ignore=shutil.ignore_patterns("lock", "hub.json")))
    assert cycleqd_merge("evolve", run, "--set", "models.pickles=true", "--generations", 3).code == 0
    for dry in (["--dry-run"], []):
        caplog.clear()
        answer = cycleqd_merge("push", run, "--repo", "ann/pickled", "--archive-only", *dry)
        assert answer.code == 0, answer.err
        lines = [record.getMessage() for record in caplog.records]
        assert lines == [
            "dataset ann/pickled-archive: can only be pulled with --trust-remote-code, because it runs code: pickles"
        ]
    answer = cycleqd_merge("pull", "ann/pickled-archive", here / "there")
    assert (answer.code, "its recipe runs code (pickles)" in answer.err) == (2, True)
    assert cycleqd_merge("pull", "ann/pickled-archive", here / "there", "--trust-remote-code").code == 0


def test_code_that_the_reader_trusts_runs_until_then_it_does_not(world: World, here: Path) -> None:
    repo = world.publish(evil_strategy(world))
    answer = cycleqd_merge("pull", repo, here / "there", "--trust-remote-code")
    assert answer.code == 2  # the class is not a strategy
    assert world.ran.exists()  # but its file was imported, as the reader allowed
    world.ran.unlink()
    repo = world.publish(lambda events: events[1]["recipe"].update(models={"pickles": True}))
    assert cycleqd_merge("pull", repo, here / "there", "--trust-remote-code").code == 0
    assert cycleqd_merge("show", here / "there").code == 0
    mark = open_run(here / "there").recipe.foreign
    assert mark is not None
    assert mark.trust_remote_code


def test_a_foreign_recipe_becomes_the_readers_own(world: World, here: Path) -> None:
    repo = world.publish(lambda events: None)
    assert cycleqd_merge("pull", repo, here / "there").code == 0
    assert cycleqd_merge("evolve", here / "there", "--set", "foreign=null", "--generations", 3).code == 0
    assert open_run(here / "there").recipe.foreign is None


# -- The archive's files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rows/../../evil.jsonl", "rows/../journal.jsonl.x"])
def test_files_with_names_that_lead_elsewhere_are_not_written(name: str, world: World, here: Path) -> None:
    repo = world.publish(lambda events: None, {name: b"{}"})
    answer = cycleqd_merge("pull", repo, here / "there")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert "internal error" not in answer.err
    assert not (here / "there").exists()


def test_an_empty_journal_is_not_a_run(world: World, here: Path) -> None:
    repo = world.publish(lambda events: None, {"journal.jsonl": b""})
    answer = cycleqd_merge("pull", repo, here / "there")
    assert (answer.code, "not a published run" in answer.err) == (2, True)


def test_links_in_a_download_are_not_followed(world: World, here: Path) -> None:
    repo = world.publish(lambda events: None)
    (here / "secret").write_text("{}")
    folder = downloaded(world, repo, here, "copy")
    (folder / "rows" / "vowels-vowels-search.jsonl").unlink()
    (folder / "rows" / "vowels-vowels-search.jsonl").symlink_to(here / "secret")
    answer = cycleqd_merge("plan", folder / "recipe.yaml", "--no-measure")
    assert (answer.code, OUTSIDE in answer.err) == (2, True)
    folder = downloaded(world, repo, here, "cache")
    (folder / "rows" / "other.jsonl").symlink_to(here / "secret")
    answer = cycleqd_merge("pull", repo, here / "there")
    assert (answer.code, "a link to a file outside" in answer.err) == (2, True)


ELSEWHERE = [
    Attack(KIND, f"a dataset's card names {what}", "refused; nothing is asked for", pattern)
    for what, pattern in {
        "a file of the reader": "/etc/passwd",
        "a file of the reader by a URL": "file:///etc/passwd",
        "a file above the dataset": "data/../../x.jsonl",
        "an archive of the reader": "zip://*.jsonl::/home/me/backup.zip",
        "a server of the reader's network": "http://127.0.0.1:PORT/x.jsonl",
        "another dataset that the reader may see": "hf://datasets/ann/private/x.jsonl",
    }.items()
]


@pytest.mark.parametrize("attack", cases(ELSEWHERE))
def test_a_dataset_reads_its_own_files_only(attack: Attack, world: World, here: Path) -> None:
    from cycleqd_merge.config.rows import RowsConfig
    from cycleqd_merge.errors import DataError
    from cycleqd_merge.tasks.rows import read_rows

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        pattern = attack.given.replace("PORT", str(server.getsockname()[1]))
        configs = [{"config_name": "default", "data_files": [{"split": "train", "path": ["rows.jsonl", pattern]}]}]
        card = f"---\n{yaml.safe_dump({'configs': configs})}---\n"
        name = f"bob/rows{sum(map(ord, attack.attack))}"
        sha = world.hub.put(name, {"README.md": card.encode(), "rows.jsonl": b'{"a": 1}\n'}, "dataset")
        with pytest.raises(DataError, match="which is not one of its files"):
            read_rows(RowsConfig(dataset=name, revision=sha))
        with pytest.raises(TimeoutError):
            server.accept()


ATTACKS = [*REFUSED, *DROPPED, *DOWNLOADED, *FOLLOWING, *ELSEWHERE]
