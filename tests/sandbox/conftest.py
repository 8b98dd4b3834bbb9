"""Fixtures of sandbox tests, which run real boxes and require bubblewrap."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cycleqd_merge.sandbox.bubblewrap import Bubblewrap
from tests.components import require


@pytest.fixture
def bubblewrap() -> Iterator[Bubblewrap]:
    """A provider; checks afterwards that none of its processes is still running."""
    require("bubblewrap")
    before = set(psutil.Process().children(recursive=True))  # other tests leave a fork server
    yield Bubblewrap()
    started = set(psutil.Process().children(recursive=True)) - before
    gone, left = psutil.wait_procs(started, timeout=5)
    assert left == [], gone


@pytest.fixture
def host_file(tmp_path: Path) -> Iterator[Path]:
    """A file of the host that contains a secret; checks afterwards that it has not changed."""
    path = tmp_path / "host.txt"
    path.write_text("the host's secret")
    before = {entry.name for entry in os.scandir("/tmp")}
    yield path
    assert path.read_text() == "the host's secret"
    assert not any("attack" in name for name in {entry.name for entry in os.scandir("/tmp")} - before)
