"""Settings of every test: offline, one thread, quiet, and a cache of its own."""

from __future__ import annotations

import os

from tests.hub.address import URL

# before any import of huggingface_hub or transformers, which read these once
os.environ["HF_ENDPOINT"] = URL  # nothing ever leaves this machine; the tests of tests/hub answer there
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"

import logging
import signal
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from cycleqd_merge.sandbox.protocol import RootFs
from tests.components import (
    ROOT_FILE_SYSTEMS,
    fail_unless_allowed,
    reason_of,
    require,
    require_root_file_system,
)
from tests.quick_figures import draw_quickly

# a shell that starts the tests in the background has SIGINT ignored, by child processes too
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("default")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder for bases and digests; child processes inherit it through the environment."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CYCLEQD_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def own_root(cache: Path) -> RootFs:
    """The root file system that `cycleqd-merge sandbox build` made."""
    built = ROOT_FILE_SYSTEMS / "default"
    if built.is_dir():
        (cache / "rootfs").mkdir(exist_ok=True)
        (cache / "rootfs" / "default").symlink_to(built, target_is_directory=True)
    require_root_file_system("default")
    return RootFs("default")


@pytest.fixture
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """See `tests.quick_figures`."""
    draw_quickly(monkeypatch)


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    for name in ("transformers", "mergekit", "datasets", "accelerate", "httpx", "filelock"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import datasets

    datasets.disable_progress_bars()


@pytest.hookimpl(tryfirst=True)  # before the test's fixtures are set up
def pytest_runtest_setup(item: pytest.Item) -> None:
    torch.set_num_threads(1)  # an engine may have set more, which changes the last bits of linear algebra
    for mark in item.iter_markers("needs"):
        for component in mark.args:
            require(component)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        fail_unless_allowed(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped:
        fail_unless_allowed(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for reason, count in Counter(map(reason_of, terminalreporter.stats.get("skipped", []))).items():
        terminalreporter.write_line(f"SKIPPED {count}: {reason}")
