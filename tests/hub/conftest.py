"""A local Hub with a signed-in user and separate caches for each test, and a run to publish."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.cli.conftest import MUTATION, Answer, cycleqd_merge
from tests.hub.address import BOUND
from tests.hub.server import LocalHub, User
from tests.models import make_adapter, make_base, make_expert, make_rows

TOKEN = "hf_ThisTokenMustAppearNowhere"
ANN = User("ann", TOKEN, orgs=("lab",))
BOB = User("bob", "hf_bobsToken")
READER = User("reader", "hf_readersToken", role="read")


class Impatient:
    """The module `time`, with short sleeps."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        """Sleep for 10 ms at most."""
        time.sleep(min(seconds, 0.01))


def sign_in(patch: pytest.MonkeyPatch, home: Path, token: str = TOKEN) -> None:
    """Give the Hub's client in this process a token, and an empty cache in `home`."""
    patch.setenv("HF_TOKEN", token)
    patch.setenv("HF_HOME", str(home))
    patch.setenv("HF_HUB_OFFLINE", "0")
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
    huggingface_hub.close_session()


@pytest.fixture
def hub(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, quick_figures: None
) -> Iterator[LocalHub]:
    """A Hub with ann signed in; the client's cache is empty and its waits between retries are short.

    Figures are digests, except in test_whole_way.py and in processes of their own.
    """
    sign_in(monkeypatch, tmp_path_factory.mktemp("hf"))
    monkeypatch.setattr("huggingface_hub.utils._http.time", Impatient())
    monkeypatch.setattr("cycleqd_merge.hub_errors._FIRST_WAIT", 0.01, raising=False)
    with LocalHub([ANN, BOB, READER], BOUND) as running:
        yield running
    huggingface_hub.close_session()


@dataclass(frozen=True)
class Parents:
    """Models on disk: a base, a full expert, two adapters."""

    base: Path
    tuned: Path
    first: Path
    second: Path


@pytest.fixture(scope="session")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Parents:
    """Tiny llamas."""
    folder = tmp_path_factory.mktemp("parents")
    base = make_base(folder / "base", "llama")
    return Parents(
        base,
        make_expert(base, folder / "tuned", seed=1),
        make_adapter(base, folder / "first", seed=2),
        make_adapter(base, folder / "second", seed=3),
    )


def put_parents(hub: LocalHub, parents: Parents) -> dict[str, str]:
    """Upload the models to the Hub; returns their commits."""
    folders = {"base": parents.base, "tuned": parents.tuned, "first": parents.first, "second": parents.second}
    return {name: hub.put(f"lab/{name}", folder) for name, folder in folders.items()}


def write_task(folder: Path, name: str) -> dict[str, Any]:
    """An inline task over rows in `folder`."""
    make_rows(folder / f"{name}-search.jsonl", 20, "abc", seed=len(name))
    make_rows(folder / f"{name}-heldout.jsonl", 12, "abc", seed=100 + len(name))
    return {
        "kind": "generate",
        "data": {"search": {"path": f"{name}-search.jsonl"}, "heldout": {"path": f"{name}-heldout.jsonl"}},
        "prompt": "{{ question }}: ",
        "scorer": {"kind": "multiple_choice", "choices": list("abc")},
        "max_new_tokens": 2,
    }


def write_recipe(folder: Path, base: str, experts: dict[str, str], **settings: Any) -> Path:
    """A recipe with two tasks, for the first two experts, whose definitions are in files next to it."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = []
    for name, expert in zip(("vowels", "letters"), experts, strict=False):
        (folder / f"{name}.yaml").write_text(json.dumps(write_task(folder, name)))
        tasks.append({"task": f"{name}.yaml", "expert": expert, "bounds": [0.0, 1.0]})
    recipe = {
        "base": base,
        "experts": experts,
        "tasks": tasks,
        "evolution": {"generations": 4, "in_flight": 2, "bins": 10, "seed": 1, "mutation": MUTATION},
        "output": str(folder / "run"),
        **settings,
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory, parents: Parents) -> Path:
    """A finished run over models on disk. Tests publish copies of it."""
    folder = tmp_path_factory.mktemp("original")
    experts = {"tuned": str(parents.tuned), "adapted": f"{parents.base}+{parents.first}"}
    answer = cycleqd_merge("evolve", write_recipe(folder, str(parents.base), experts))
    assert answer.code == 0, answer.err
    return folder / "run"


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to publish."""
    return Path(shutil.copytree(original, tmp_path / "run", ignore=shutil.ignore_patterns("lock")))


def pushed(*arguments: object) -> Answer:
    """`push`, which must succeed."""
    answer = cycleqd_merge("push", *arguments)
    assert answer.code == 0, answer.err
    return answer


def table(hub: LocalHub, repo: str, path: str) -> list[dict[str, Any]]:
    """The rows of a Parquet file on the Hub."""
    import pyarrow.parquet

    return list(pyarrow.parquet.read_table(io.BytesIO(hub.read(repo, path, "dataset"))).to_pylist())


@pytest.fixture(scope="session")
def longer(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, extended by a generation."""
    folder = Path(shutil.copytree(original, tmp_path_factory.mktemp("longer") / "run"))
    assert cycleqd_merge("evolve", folder, "--generations", 5).code == 0
    return folder
