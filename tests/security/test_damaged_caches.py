"""Damaged caches: every entry of every cache is checked, and rebuilt when a crash or a disk has damaged it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit.config import MergeConfiguration
from safetensors.torch import load_file, save_file

from cycleqd_merge.config.recipe import ModelsConfig, Recipe
from cycleqd_merge.config.rows import RowsConfig
from cycleqd_merge.errors import UserError
from cycleqd_merge.event_loop import run_coroutine
from cycleqd_merge.hub.record import PushRecord
from cycleqd_merge.merging.bases import prepare_bases
from cycleqd_merge.merging.checkpoint import digest_files
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.mergekit_adapters import merged_adapters
from cycleqd_merge.merging.revisions import pin
from cycleqd_merge.sandbox.protocol import RootFs
from cycleqd_merge.sandbox.providers import sandbox_for
from cycleqd_merge.tasks.code.execution import expected_values
from cycleqd_merge.tasks.code.problems import CodeProblem
from cycleqd_merge.tasks.rows import read_rows
from tests.components import ROOT_FILE_SYSTEMS
from tests.models import make_adapter, make_base, make_expert, make_recipe, make_tokenizer, on_base, open_recipe_family
from tests.security.attacks import Attack, cases


@dataclass(frozen=True)
class Models:
    """Tiny models, made once: a base, two experts, an adapter, one stored as a pickle, an expert with more tokens."""

    base: Path
    first: Path
    second: Path
    adapter: Path
    pickled: Path
    wider: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    base = make_base(folder / "base")
    first, second, wider = (make_expert(base, folder / name, seed) for seed, name in enumerate(("a", "b", "wider")))
    adapter = make_adapter(base, folder / "adapter", seed=3)
    pickled = Path(shutil.copytree(adapter, folder / "pickled"))
    weights = pickled / "adapter_model.safetensors"
    torch.save(load_file(weights), pickled / "adapter_model.bin")
    weights.unlink()
    _widen(wider)
    return Models(base, first, second, adapter, pickled, wider)


def _widen(folder: Path) -> None:
    """Give a model a token more, in its tokenizer and its embeddings."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<think>"])
    tokenizer.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], tensors[name][:1]]).contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 1}))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("CYCLEQD_CACHE", str(folder))
    return folder


def family(models: Models, folder: Path, *experts: Path | str, **settings: Any) -> ModelFamily:
    folder.mkdir(exist_ok=True)
    named = {f"e{number}": each for number, each in enumerate(experts)}
    return open_recipe_family(make_recipe(folder, models.base, named, models=settings))


def sums(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    return {name: hashlib.sha256(each.float().numpy().tobytes()).hexdigest() for name, each in sorted(tensors.items())}


def digests(models: Models, folder: Path) -> Any:
    """Every file of four models, each of which must have a digest of its own."""
    found = [digest_files([path]) for path in sorted(models.base.parent.rglob("*.safetensors"))]
    assert len(set(found)) == len(found) >= 4
    return found


def bases(models: Models, folder: Path) -> Any:
    opened = prepare_bases(family(models, folder, models.first, models.second), [0])[0]
    loaded = [(name, opened.load(name)) for name in opened.ranks]
    return opened.digest, opened.loss, sums({name: basis.vectors for name, basis in loaded if basis is not None})


def converted(models: Models, folder: Path) -> Any:
    opened = family(models, folder, on_base(models.base, models.pickled), models.first, pickles=True)
    return opened.experts[0].digest, sums(vectors(opened, 0))


def vectors(opened: ModelFamily, expert: int) -> dict[str, torch.Tensor]:
    found = {}
    for weight in opened.weights:
        vector = opened.task_vector(expert, weight, opened.base_tensor(weight))
        if vector is not None:
            found[weight.name] = vector if isinstance(vector, torch.Tensor) else vector.dense()
    return found


def lora(models: Models, folder: Path) -> Any:
    reference = on_base(models.base, models.adapter)
    stated = {"merge_method": "passthrough", "models": [{"model": reference}]}
    with merged_adapters(MergeConfiguration.model_validate(stated), ModelsConfig()) as links:
        (merged,) = Path(links).iterdir()
        assert (merged / "config.json").read_bytes() == (models.base / "config.json").read_bytes()
        return merged.name, sums(load_file(merged / "model.safetensors"))


def unions(models: Models, folder: Path) -> Any:
    opened = family(models, folder, models.first, models.wider, vocabulary="union")
    shapes = {weight.name: weight.shape for weight in opened.weights}
    return opened.base.digest, shapes, sums(vectors(opened, 1))


def rows(models: Models, folder: Path) -> Any:
    folder.mkdir(exist_ok=True)
    data = b'{"question":"a","answer":"b"}\n{"question":"c","answer":"d"}\n'
    (folder / "rows.jsonl").write_bytes(data)
    url = (folder / "rows.jsonl").as_uri()
    return read_rows(RowsConfig(url=url, sha256=hashlib.sha256(data).hexdigest()))


MAKERS: dict[str, Callable[[Models, Path], Any]] = {
    "digests": digests,
    "bases": bases,
    "converted": converted,
    "lora": lora,
    "unions": unions,
    "rows": rows,
}


def flipped(data: bytes) -> bytes:
    """One bit in the middle, in the last digit of a text."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda data: b"",
    "cut in half": lambda data: data[: len(data) // 2],
    "zeros of its length": lambda data: b"\0" * len(data),
    "a bit flipped": flipped,
    "a byte appended": lambda data: data + b"0",
    "JSON of another form": lambda data: b"null",
    "JSON nested deeply": lambda data: b"[" * 100_000,
    "not UTF-8": lambda data: b"\xff\xfe\xfd" + data,
}

ATTACKS = [
    Attack("damaged cache", f"{kind}: every file {damage}", "rebuilt; the same as before", (kind, damage))
    for kind in MAKERS
    for damage in DAMAGES
]


def files(folder: Path) -> Iterator[Path]:
    """The contents of a cache: no locks, and no links to files of the user's."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.suffix != ".lock":
            yield path


@pytest.fixture(scope="module")
def made(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path, Any]]:
    """By kind: a work folder, a filled cache and what it was filled with, each made once."""
    done: dict[str, tuple[Path, Path, Any]] = {}

    def make(kind: str) -> tuple[Path, Path, Any]:
        if kind not in done:
            folder = tmp_path_factory.mktemp(kind)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("CYCLEQD_CACHE", str(folder / "cache"))
                done[kind] = folder / "work", folder / "cache", MAKERS[kind](models, folder / "work")
        return done[kind]

    return make


@pytest.mark.parametrize("attack", cases(ATTACKS))
def test_a_damaged_entry_is_rebuilt(
    attack: Attack, models: Models, made: Callable[[str], tuple[Path, Path, Any]], own_cache: Path
) -> None:
    kind, damage = attack.given
    work, filled, before = made(kind)
    shutil.copytree(filled, own_cache, symlinks=True)
    damaged = list(files(own_cache / kind))
    assert damaged
    for path in damaged:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert MAKERS[kind](models, work) == before
    assert MAKERS[kind](models, work) == before  # what was rebuilt is in order


LINES = [
    Attack("damaged cache", "one basis of another shape and data type", "rebuilt", "bases shape"),
    Attack("damaged cache", "one basis replaced by another's", "rebuilt", "bases swapped"),
    Attack("damaged cache", "bases of an interrupted computation, one of them damaged", "rebuilt", "bases unfinished"),
    Attack("damaged cache", "digests of two experts swapped", "rebuilt", "digests swapped"),
    Attack("damaged cache", "a digest cut short by version 0.1", "not read", "digests old"),
    Attack("damaged cache", "one file of a merged adapter missing", "rebuilt", "lora missing"),
    Attack("damaged cache", "a file more in a merged adapter", "rebuilt", "lora more"),
    Attack("damaged cache", "an empty folder of a merged adapter", "rebuilt", "lora empty"),
    Attack("damaged cache", "expected values of fewer inputs", "computed again", "expected"),
    Attack("damaged cache", "an empty commit of a Hub model, offline", "refused", "commits"),
    Attack("damaged cache", "eight writers of one digest at once", "all read the same", "writers"),
    *(
        Attack("damaged record", f"hub.json: {name}", "one line that names the file", text)
        for name, text in {
            "cut short": '{"lab/merged": {"com',
            "empty": "",
            "a list": "[]",
            "null": "null",
            "an entry of null": '{"lab/merged": null}',
            "a commit of a number": '{"lab/merged": {"commit": 5}}',
            "nested deeply": "[" * 100_000,
            "zeros": "\0" * 100,
        }.items()
    ),
]
ATTACKS += LINES


def the(given: str) -> Attack:
    return next(attack for attack in LINES if attack.given == given)


def by_name(cache: Path, kind: str, ending: str) -> list[Path]:
    return [path for path in files(cache / kind) if path.name.endswith(ending)]


def of_another_shape(cache: Path) -> None:
    path = by_name(cache, "bases", ".safetensors")[0]
    tensors = {"vectors": torch.eye(3).half(), "values": torch.ones(3).half()}
    save_file(tensors, path, {"basis": json.dumps({"side": "right", "norm": 1.0, "kept": 1.0, "skew": 0.0})})


def swapped_bases(cache: Path) -> None:
    one, other = by_name(cache, "bases", "q_proj.weight.safetensors")[:2]
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def unfinished_bases(cache: Path) -> None:
    for path in by_name(cache, "bases", "manifest.json"):
        path.unlink()
    for path in by_name(cache, "bases", ".safetensors")[:2]:
        path.write_bytes(flipped(path.read_bytes()))


def swapped_digests(cache: Path) -> None:
    one, other = list(files(cache / "digests"))[:2]
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second[:-1] + first[-1:])
    other.write_bytes(first[:-1] + second[-1:])


def old_digests(cache: Path) -> None:
    """What version 0.1 left under the names that it used."""
    for path in list(files(cache / "digests")):
        path.rename(path.with_name(path.name.removesuffix(".entry")))
    for path in files(cache / "digests"):
        path.write_text("0123456789abcdef")


def missing_file(cache: Path) -> None:
    by_name(cache, "lora", "model.safetensors")[0].unlink()


def more_files(cache: Path) -> None:
    path = by_name(cache, "lora", "model.safetensors")[0]
    (path.parent / "model.safetensors.index.json").write_text("{}")


def empty_folder(cache: Path) -> None:
    folder = by_name(cache, "lora", "model.safetensors")[0].parent
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("attack", "damage"),
    [
        pytest.param(the("bases shape"), of_another_shape, id="bases shape"),
        pytest.param(the("bases swapped"), swapped_bases, id="bases swapped"),
        pytest.param(the("bases unfinished"), unfinished_bases, id="bases unfinished"),
        pytest.param(the("digests swapped"), swapped_digests, id="digests swapped"),
        pytest.param(the("digests old"), old_digests, id="digests old"),
        pytest.param(the("lora missing"), missing_file, id="lora missing"),
        pytest.param(the("lora more"), more_files, id="lora more"),
        pytest.param(the("lora empty"), empty_folder, id="lora empty"),
    ],
)
def test_a_changed_entry_is_rebuilt(
    attack: Attack,
    damage: Callable[[Path], None],
    models: Models,
    made: Callable[[str], tuple[Path, Path, Any]],
    own_cache: Path,
) -> None:
    kind = attack.given.split()[0]
    work, filled, before = made(kind)
    shutil.copytree(filled, own_cache, symlinks=True)
    damage(own_cache)
    assert MAKERS[kind](models, work) == before


def test_expected_values_of_fewer_inputs_are_computed_again(own_root: RootFs, own_cache: Path) -> None:
    (own_cache / "rootfs").mkdir(parents=True)
    (own_cache / "rootfs" / own_root.name).symlink_to(ROOT_FILE_SYSTEMS / own_root.name, target_is_directory=True)
    sandbox = sandbox_for(own_root)
    problem = CodeProblem("Mbpp/1", "f", "", "", "", "def f(x):\n    return x + 1\n", [], [], 0.0)

    def values() -> list[str]:
        return run_coroutine(expected_values(sandbox, problem, [[1], [2]], "base")).outputs

    before = values()
    (path,) = files(own_cache / "expected")
    whole = path.read_bytes()
    for damaged in (b"", b"{}", b'{"outputs": [], "seconds": 1.0}', whole[:-9], flipped(whole), b"[" * 100_000):
        path.write_bytes(damaged)
        assert values() == before


def test_an_empty_commit_is_refused(models: Models, own_cache: Path, tmp_path: Path) -> None:
    (own_cache / "commits").mkdir(parents=True)
    for ending in ("", ".entry"):
        for damage in ("", "0123", "0" * 64 + "\n"):
            (own_cache / "commits" / f"model%2Flab%2Fnone%40{ending}").write_text(damage)
            recipe = make_recipe(tmp_path, models.base, {"a": models.first, "b": models.second})
            with pytest.raises(UserError, match="lab/none"):
                pin(Recipe.model_validate({**recipe.model_dump(exclude_unset=True), "base": "lab/none"}))


def test_many_writers_of_one_digest(models: Models, own_cache: Path) -> None:
    path = models.first / "model.safetensors"
    wanted = hashlib.sha256(hashlib.sha256(path.read_bytes()).hexdigest().encode()).hexdigest()
    for _ in range(5):
        shutil.rmtree(own_cache, ignore_errors=True)
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _: digest_files([path]), range(32))) == {wanted}


@pytest.mark.parametrize("attack", cases(attack for attack in LINES if attack.kind == "damaged record"))
def test_a_damaged_record_of_pushes_is_named(attack: Attack, tmp_path: Path) -> None:
    (tmp_path / "hub.json").write_text(attack.given)
    with pytest.raises(UserError) as raised:
        _ = PushRecord(tmp_path, "lab/merged").commit
    assert str(raised.value).startswith(f"{tmp_path / 'hub.json'}: damaged: ")
    assert len(str(raised.value).splitlines()) == 1
