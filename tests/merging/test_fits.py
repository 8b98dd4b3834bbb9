"""The file of a fit: what is stored is what is read, under the digest of its bytes, and nothing else is accepted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from cycleqd_merge.errors import ModelError
from cycleqd_merge.merging.channels import channel_count
from cycleqd_merge.merging.fits import LARGEST, Fit, fit_content, fit_digest, keep_fit, read_fit

SIZES = {0: {"a": 2, "c": 1}, 2: {"b": 2}}
FIT = Fit(
    ("a", "b", "c"),
    np.arange(9, dtype=np.float32).reshape(3, 3),
    "singular",
    SIZES,
    {0: np.array([1, 2, 3], np.float32), 2: np.array([4, 5], np.float32)},
)


def changed(header: dict[str, object] | None = None, **arrays: np.ndarray) -> bytes:
    """The file of `FIT` with other arrays, or other values in its header."""
    content = FIT.to_bytes()
    size = int.from_bytes(content[:8], "little")
    stated = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["fit"])
    return save({**load(content), **arrays}, metadata={"fit": json.dumps({**stated, **(header or {})})})


def test_it_is_read_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYCLEQD_CACHE", str(tmp_path))
    digest = keep_fit(FIT.to_bytes())
    found = read_fit(digest)
    assert fit_content(digest) == found.to_bytes() == FIT.to_bytes()
    assert [found.coefficients_of(name) for name in "abc"] == FIT.coefficients.T.tolist()
    assert found.scales_along(1, {"a": 2}) is None
    assert found.scales_along(0, SIZES[0]).tolist() == [1, 2, 3]


def test_fits_of_eight_experts_of_a_72b_model_are_read() -> None:
    """With a scale per channel of every matrix of Qwen2.5-72B but its embeddings."""
    hidden, inner, keys, layers = 8192, 29_568, 1024, 80
    shapes = [(hidden, hidden)] * 2 + [(keys, hidden)] * 2 + [(inner, hidden)] * 2 + [(hidden, inner)]
    size = 8 * layers * sum(map(channel_count, shapes)) * 4
    assert size == 421_068_800
    assert size < 0.9 * LARGEST


def test_singular_bases_of_other_ranks_or_order_are_refused() -> None:
    for ranks in ({"a": 2}, {"c": 1, "a": 2}, {"a": 2, "c": 2}):
        with pytest.raises(ModelError, match="other singular directions of expert 1"):
            FIT.scales_along(0, ranks)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a fit"),
        (b"\xff" * 100, "not a fit"),
        (FIT.to_bytes()[:-4], "not a fit"),
        (save({"coefficients": FIT.coefficients}), "not a fit"),
        (changed({"format": 2}), "not a fit"),
        (changed({"code": "x"}), "not a fit"),
        (changed({"along": "code"}), "not a fit"),
        (changed({"tensors": []}), "not a fit"),
        (changed({"tensors": ["a"]}), r"coefficients of shape \(3, 3\) for 1 tensors"),
        (changed({"sizes": {"0": {"a": 2, "c": 1}, "2": {"b": 3}}}), "expert 2: shape"),
        (changed({"sizes": {"0": {"a": 2, "c": 1}, "3": {"b": 2}}}), "an array is missing"),
        (changed({"sizes": {"0": {"a": 10**30}, "2": {"b": 2}}}), "expert 0: shape"),
        (changed({"sizes": {"0": {"a": 0}, "2": {"b": 2}}}), "not a fit"),
        (changed({"sizes": {"\u0660": {"a": 2, "c": 1}, "2": {"b": 2}}}), "an array is missing"),
        (changed(coefficients=np.full((3, 3), np.nan, np.float32)), "not finite"),
        (changed(coefficients=np.full((3, 3), 1e9, np.float32)), "far too large"),
        (changed(coefficients=np.zeros((3, 3))), "not of float32"),
        (changed(coefficients=np.zeros(3, np.float32)), "of a wrong form"),
        (changed(more=np.zeros(3, np.float32)), "unknown array 'more'"),
    ],
)
def test_anything_else_is_refused(
    content: bytes, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CYCLEQD_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=problem):
        keep_fit(content)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_missing_or_damaged_file_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYCLEQD_CACHE", str(tmp_path))
    missing = fit_digest(b"elsewhere")
    with pytest.raises(ModelError, match=f"fit {missing[:12]} is missing in the cache"):
        read_fit(missing)
    digest = keep_fit(changed({"tensors": ["a", "b", "d"]}))
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelError, match="is damaged"):
        read_fit(digest)
    assert keep_fit(changed({"tensors": ["a", "b", "d"]})) == digest
    assert read_fit(digest).tensors == ("a", "b", "d")
