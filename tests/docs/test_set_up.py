"""The README's test command: CI runs the same one, and it runs the tests even if it cannot install packages."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.components import fail_unless_allowed

ROOT = Path(__file__).parents[2]
PROGRAMS = ("bash", "dirname", "env", "grep", "mktemp", "python3", "rm", "tail")


def test_ci_runs_the_readmes_test_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = re.search(r"```bash\n(pip install .*run-tests)\n```", readme)
    assert command
    assert f"\n{command[1]} " in (ROOT / ".ci" / "run").read_text()
    assert "- run: .ci/run\n" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


@pytest.mark.parametrize(
    ("user", "apt", "said"),
    [
        (0, "echo 'E: no network' >&2; exit 100", "run-tests: cannot install bubblewrap: E: no network"),
        (1000, "exit 1", "run-tests: installing packages needs root or sudo; these are missing: bubblewrap "),
        (0, None, "run-tests: apt-get is missing; install these packages yourself: bubblewrap "),
    ],
)
def test_tests_run_where_packages_cannot_be_installed(tmp_path: Path, user: int, apt: str | None, said: str) -> None:
    for name in PROGRAMS:
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    for name, script in (("id", f"echo {user}"), ("apt-get", apt), ("pytest", 'echo "pytest $*"; exit 3')):
        if script is not None:
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
    command = [ROOT / "run-tests", "-k", "some"]
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert said in done.stdout
    assert done.stdout.endswith("pytest -n 3 --dist loadfile --no-loadscope-reorder -k some\n")
    assert done.returncode == 3


@pytest.mark.parametrize(
    ("allowed", "outcome"), [(None, "skipped"), ("chromium,mariadb", "skipped"), ("chromium", "failed"), ("", "failed")]
)
def test_a_skip_fails_where_it_is_not_allowed(
    monkeypatch: pytest.MonkeyPatch, allowed: str | None, outcome: str
) -> None:
    monkeypatch.delenv("CYCLEQD_ALLOWED_SKIPS", raising=False)
    if allowed is not None:
        monkeypatch.setenv("CYCLEQD_ALLOWED_SKIPS", allowed)
    skipped = ("test_x.py", 1, "Skipped: mariadb: not installed")
    report = pytest.TestReport("test_x", ("test_x.py", 1, "test_x"), {}, "skipped", skipped, "setup")
    fail_unless_allowed(report)
    assert report.outcome == outcome
