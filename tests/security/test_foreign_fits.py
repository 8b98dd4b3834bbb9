"""Fits of strangers: `pull`, `evolve`, `export` and `merge` take a file only if it is the fit that its name states."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from cycleqd_merge.evolution.genome import fit_genome
from cycleqd_merge.merging import fit_files, fits
from cycleqd_merge.merging.fits import Fit, fit_digest, keep_fit, read_fit
from tests.cli.conftest import cycleqd_merge
from tests.security.attacks import Attack, cases
from tests.security.test_foreign import World, here, world  # noqa: F401  # fixtures

KIND = "foreign fit"
OUTCOME = "refused in one line, nothing is built"
MIB = 2**20
GOOD = Fit(("a",), np.ones((2, 1), np.float32), "channel", {}, {})


def made(*, content: bytes = b"", tensors: Any = ("a",), sizes: Any = None, header: str = "", **arrays: Any) -> bytes:
    """A file of a fit as a stranger might make it; `content` alone is the whole file."""
    if content:
        return content
    stated = header or json.dumps({"format": 1, "tensors": tensors, "along": "channel", "sizes": sizes or {}})
    return save({"coefficients": np.ones((2, 1), np.float32), **arrays}, metadata={"fit": stated})


def with_header(size: int, text: bytes = b"") -> bytes:
    """A file whose first eight bytes announce a header of `size` bytes."""
    return size.to_bytes(8, "little") + text


_HOSTILE: dict[str, tuple[bytes, str]] = {
    "a pickle": (made(content=pickle.dumps({"coefficients": 1})), "not a fit"),
    "an empty file": (b"\0", "not a fit"),
    "a header beyond the file": (with_header(2**40, b"{}"), "header is too large"),
    "a header of 65 MiB": (with_header(65 * MIB, b"{" + b" " * 1000), "header is too large"),
    "a header that is nested too deeply": (made(header="[" * 10**5), "not a fit"),
    "a header of Python code": (made(header="__import__('os').system('id')"), "not a fit"),
    "a key of a later version": (
        made(header=json.dumps({"format": 1, "tensors": ["a"], "along": "channel", "sizes": {}, "target": "x.py:f"})),
        "not a fit",
    ),
    "values that are not numbers": (made(coefficients=np.full((2, 1), np.nan, np.float32)), "not finite"),
    "infinite values": (made(coefficients=np.full((2, 1), np.inf, np.float32)), "not finite"),
    "values far too large": (made(coefficients=np.full((2, 1), 1e30, np.float32)), "far too large"),
    "values of another type": (made(coefficients=np.ones((2, 1), np.int64)), "not of float32"),
    "an array besides": (made(more=np.ones(3, np.float32)), "unknown array 'more'"),
    "an array with escapes in its name": (made(**{"\x1b]0;x\x07": np.ones(3, np.float32)}), "unknown array"),
    "an expert's number with a zero before it": (
        made(sizes={"01": {"a": 1}}, **{"scales.01": np.ones(1, np.float32)}),
        "of a wrong form",
    ),
    "an expert's number in other digits": (
        made(sizes={"\u0661": {"a": 1}}, **{"scales.\u0661": np.ones(1, np.float32)}),
        "of a wrong form",
    ),
    "coefficients of other experts": (
        made(coefficients=np.ones((3, 1), np.float32)),
        "has coefficients of 3 experts; the run has 2",
    ),
    "scales of an expert that does not exist": (
        made(sizes={"5": {"a": 1}}, **{"scales.5": np.ones(1, np.float32)}),
        "expert 5",
    ),
    "scales without number": (
        made(sizes={"0": {"a": 10**30}}, **{"scales.0": np.ones(1, np.float32)}),
        "expert 0",
    ),
}


@dataclass(frozen=True)
class Published:
    """What a stranger publishes.

    digests: of the fits that the founders name. files: more files of the archive. largest: instead of the usual limit.
    reason: part of the refusal.
    """

    digests: tuple[str, ...]
    reason: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    largest: int | None = None


def stored(content: bytes, reason: str, digest: str = "", largest: int | None = None) -> Published:
    """An archive with one fit, under the digest of its content or under another."""
    name = digest or fit_digest(content)
    return Published((name,), reason, {f"fits/{name}.safetensors": content}, largest)


_OTHER = fit_digest(b"other")
PULLED = [
    Attack(KIND, what, OUTCOME, given)
    for what, given in {
        **{what: stored(content, reason) for what, (content, reason) in _HOSTILE.items()},
        "a fit under the digest of another": stored(GOOD.to_bytes(), "its name is not the SHA-256", _OTHER),
        "a fit that the archive lacks": Published((_OTHER,), "missing"),
        "a fit that is a folder": Published((_OTHER,), "missing", {f"fits/{_OTHER}.safetensors/x.safetensors": b"x"}),
        "a fit larger than the limit": stored(GOOD.to_bytes(), "0 MiB; at most 0 MiB are read", largest=50),
        "more fits than a run has": Published(
            tuple(sorted(fit_digest(bytes([n])) for n in range(101))), "101 fits; at most 100"
        ),
        "a fit by a path": Published(("../../../etc/passwd",), "should match pattern"),
        "a fit by an absolute path": Published(("/etc/passwd",), "should match pattern"),
        "a fit whose digest goes on": Published((f"{_OTHER}\n",), "should match pattern"),
    }.items()
]


def founders(digests: tuple[str, ...]) -> list[dict[str, Any]]:
    """Founders with shares of fits, one each."""
    genomes = [fit_genome(digest, 2, 1).to_json() for digest in digests]
    return [{"genome": genome, "scores": {}, "from": 0} for genome in genomes]


@pytest.mark.parametrize("attack", cases(PULLED))
def test_pull_refuses_it(
    attack: Attack,
    world: World,  # noqa: F811
    here: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: Published = attack.given
    if given.largest is not None:
        monkeypatch.setattr("cycleqd_merge.hub.restore.LARGEST", given.largest)
    repo = world.publish(lambda events: events[0].update(seeds=founders(given.digests)), given.files)
    answer = cycleqd_merge("pull", repo, here / "there")
    assert answer.code == 2, (answer.out, answer.err)
    assert answer.err.count("\n") == 1
    assert answer.err[:-1].isprintable()
    assert answer.err.startswith(f"error: dataset {repo}: ")
    assert given.reason in answer.err
    assert not (here / "there").exists()


def test_a_fit_event_by_a_path_is_refused(world: World, here: Path) -> None:  # noqa: F811
    fit = {"event": "fit", "number": 0, "digest": "../journal"}
    repo = world.publish(lambda events: events.insert(2, fit))
    answer = cycleqd_merge("pull", repo, here / "there")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "fit: digest" in answer.err


# -- Files in a folder: a run that somebody unpacked, a model that somebody downloaded --------------------------------


def put_content(place: Path) -> None:
    place.write_bytes(GOOD.to_bytes())


def put_link(place: Path) -> None:
    place.symlink_to("/etc/passwd")


def put_loop(place: Path) -> None:
    place.symlink_to(place)


def put_folder(place: Path) -> None:
    place.mkdir()


def put_large(place: Path) -> None:
    with place.open("wb") as file:
        file.truncate(513 * MIB)


PLACED = [
    Attack(KIND, f"{what}, {where}", OUTCOME, (put, reason, where))
    for where in ("in a run's folder", "next to a configuration")
    for what, put, reason in (
        ("a file with the content of another fit", put_content, "its name is not the SHA-256"),
        ("a link to a file of the reader", put_link, "its name is not the SHA-256"),
        ("a link to itself", put_loop, "cannot be read"),
        ("a pipe that nobody writes to", os.mkfifo, "not a file"),
        ("a folder as a fit", put_folder, "not a file"),
        ("a file larger than memory", put_large, "513 MiB; at most 512 MiB"),
        ("no file", lambda place: None, "missing"),
    )
]


@pytest.mark.parametrize("attack", cases(PLACED))
def test_it_is_refused_where_it_is_used(
    attack: Attack,
    world: World,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put, reason, where = attack.given
    monkeypatch.setenv("CYCLEQD_CACHE", str(tmp_path / "cache"))
    genome = fit_genome(_OTHER, 2, 1).to_json()
    folder = tmp_path / "model" / "cycleqd" / "fits"
    folder.mkdir(parents=True)
    put(folder / f"{_OTHER}.safetensors")
    if where == "next to a configuration":
        del genome["coefficients"]
        record = {**genome, "groups": "one", "vocabulary": "strict", "rank": None, "bases": {}}
        config = {
            "merge_method": "cycleqd",
            "base_model": "lab/base",
            "models": [{"model": name, "parameters": {"weight": 1.0}} for name in ("lab/tuned", "lab/other")],
            "parameters": {"mutations": json.dumps(record)},
        }
        (tmp_path / "model" / "mergekit_config.yml").write_text(json.dumps(config))
        answer = cycleqd_merge("merge", tmp_path / "model" / "mergekit_config.yml", tmp_path / "out")
        assert (answer.code, answer.err.count("\n")) == (2, 1), answer.err
        assert reason in answer.err
        assert not (tmp_path / "out").exists()
    else:
        with pytest.raises(fit_files.ModelError, match=reason):
            fit_files.keep_fits(folder, [_OTHER])
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_fit_in_a_configuration_by_a_path_is_refused(tmp_path: Path) -> None:
    digest = "../../../../etc/passwd"
    genome = {"format": 2, "mutations": [], "fits": [{"digest": digest, "share": [1.0]}]}
    record = {**genome, "groups": "one", "vocabulary": "strict", "rank": None, "bases": {}}
    config = {"merge_method": "cycleqd", "base_model": "lab/base", "models": [{"model": "lab/tuned"}]}
    config["parameters"] = {"mutations": json.dumps(record)}
    (tmp_path / "config.yml").write_text(json.dumps(config))
    answer = cycleqd_merge("merge", tmp_path / "config.yml", tmp_path / "out")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "invalid parameter `mutations`: genome: fits.0.digest" in answer.err


def test_a_damaged_fit_in_the_cache_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYCLEQD_CACHE", str(tmp_path / "cache"))
    digest = keep_fit(GOOD.to_bytes())
    fit_files.write_fits(tmp_path / "run", [digest])
    (path,) = (tmp_path / "cache").rglob("*.safetensors")
    path.write_bytes(b"x")
    fit_files.keep_fits(tmp_path / "run", [digest])
    read_fit.cache_clear()
    assert read_fit(digest).coefficients.tolist() == GOOD.coefficients.tolist()
    assert fits.fit_content(digest) == GOOD.to_bytes()


ATTACKS = [*PULLED, *PLACED]
