"""Programs and data that some tests need besides the package, and a machine may lack. `run-tests` installs programs."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cycleqd_merge.errors import UserError

_SHARED = Path(__file__).parents[2] / "shared"
DATA = Path(os.environ.get("CYCLEQD_DATA", _SHARED / "data")).resolve()
"""Published rows of AgentBench and EvalPlus."""
FIXTURE = Path(os.environ.get("CYCLEQD_FIXTURE", _SHARED / "fixture")).resolve()
"""Three trained LoRA experts, and their base model's tokenizer."""

_CACHE = os.environ.get("CYCLEQD_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "cycleqd-merge"
ROOT_FILE_SYSTEMS = Path(_CACHE).expanduser() / "rootfs"
"""Those of the user, not of the cache that tests get."""

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")


def require(component: str) -> None:
    """Skip the calling test, unless a component works here."""
    reason = _missing(component)
    if reason is not None:
        pytest.skip(f"{component}: {reason}")


def require_root_file_system(name: str) -> None:
    """Skip the calling test, unless boxes can be created from a root file system in the cache."""
    try:
        _boxes(name)
    except UserError as error:
        pytest.skip(f"root file system: {error}")


Report = pytest.TestReport | pytest.CollectReport


def fail_unless_allowed(skipped: Report) -> None:
    """Where $CYCLEQD_ALLOWED_SKIPS is set, a skip is a failure unless it lists the component (separated by commas)."""
    allowed = os.environ.get("CYCLEQD_ALLOWED_SKIPS")
    reason = reason_of(skipped)
    component = reason.partition(":")[0]
    if allowed is not None and component not in allowed.split(","):
        skipped.longrepr = f"{reason}; $CYCLEQD_ALLOWED_SKIPS does not list {component!r}"
        skipped.outcome = "failed"


def reason_of(skipped: Report) -> str:
    """Why a test was skipped: `component: what is wrong with it`."""
    assert isinstance(skipped.longrepr, tuple)
    return skipped.longrepr[2].removeprefix("Skipped: ")


@functools.cache
def _missing(component: str) -> str | None:
    """Why a component cannot be used here; None if it can."""
    try:
        return _CHECKS[component]()
    except UserError as error:
        return str(error)


def _boxes(root: str | None = None) -> None:
    from cycleqd_merge.sandbox.bubblewrap import Bubblewrap
    from cycleqd_merge.sandbox.protocol import RootFs

    Bubblewrap().probe(RootFs(root))


def _mariadb() -> None:
    from cycleqd_merge.tasks.database.opening import require_database

    require_database("mariadb")


def _chromium() -> str | None:
    if CHROMIUM and CHROMEDRIVER:
        return None
    return "not installed; `apt install chromium chromium-driver`, or install Google Chrome and chromedriver"


def _data() -> str | None:
    return None if DATA.is_dir() else f"{DATA} does not exist; set $CYCLEQD_DATA to the folder of the published rows"


def _fixture() -> str | None:
    return None if FIXTURE.is_dir() else f"{FIXTURE} does not exist; set $CYCLEQD_FIXTURE to the experts' folder"


_CHECKS: dict[str, Callable[[], str | None]] = {
    "bubblewrap": _boxes,
    "mariadb": _mariadb,
    "chromium": _chromium,
    "published data": _data,
    "trained experts": _fixture,
}
