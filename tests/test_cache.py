"""Where the cache is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cycleqd_merge.cache import cache_folder


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"CYCLEQD_CACHE": "own", "XDG_CACHE_HOME": "xdg"}, "own/bases"),
        ({"CYCLEQD_CACHE": "own"}, "own/bases"),
        ({"XDG_CACHE_HOME": "xdg"}, "xdg/cycleqd-merge/bases"),
        ({}, "home/.cache/cycleqd-merge/bases"),
    ],
)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have other folders")
def test_the_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("CYCLEQD_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "home", **variables}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    assert cache_folder("bases") == tmp_path / expected
    assert (tmp_path / expected).is_dir()
