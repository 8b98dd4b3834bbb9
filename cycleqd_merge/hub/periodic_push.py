"""Push the archive during a run, in a separate process, so that it can neither slow down nor stop the run."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from cycleqd_merge.journal.log import Event
from cycleqd_merge.run.observer import Observer
from cycleqd_merge.run.state import Run

log = logging.getLogger(__name__)
_LOG = "push.log"
FIRST_WAIT, LONGEST_WAIT = 30.0, 1800.0
"""Seconds until a failed push is retried; doubled after each failure."""
_NICE = 10


class PeriodicPush(Observer):
    """Pushes the archive of the run in `folder` every `every` generations.

    One push runs at a time. A failed push is logged and retried later.
    """

    def __init__(self, folder: Path, every: int, first_wait: float = FIRST_WAIT) -> None:
        self._folder, self._every, self._first_wait = folder, every, first_wait
        self._due = False
        self._wait = first_wait
        self._not_before = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def evaluated(self, run: Run, event: Event) -> None:
        """See `Observer`."""
        if run.archives and run.generation % self._every == 0:
            self._due = True
        if self._process is not None and self._process.poll() is not None:
            self._ended()
        if self._due and self._process is None and time.monotonic() >= self._not_before:
            self._begin()

    def close(self, seconds: float = 600.0) -> None:
        """Wait for a push in progress; after `seconds` it is killed, which leaves the Hub unchanged."""
        if self._process is None:
            return
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._ended()

    def _begin(self) -> None:
        self._due = False
        start = f"import sys; sys.path[:] = {sys.path!r}; from cycleqd_merge.cli import main; main()"
        command = [sys.executable, "-P", "-c", start]  # -P: no module is imported from the current folder
        arguments = ["push", str(self._folder), "--archive-only"]
        try:
            self._log = (self._folder / _LOG).open("w+b")
            self._process = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},  # a push needs no GPU memory
                start_new_session=True,  # Ctrl-C ends the run, not a push in progress
            )
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICE)
        except OSError as error:
            self._failed(str(error))

    def _ended(self) -> None:
        assert self._process is not None
        assert self._log is not None
        code, self._process = self._process.returncode, None
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        self._log.close()
        if code == 0:
            self._wait, self._not_before = self._first_wait, 0.0
        else:
            self._failed(lines[-1] if lines else f"exit code {code}")

    def _failed(self, reason: str) -> None:
        log.warning("pushing the archive failed and will be retried: %s", reason.removeprefix("error: "))
        self._due = True
        self._not_before = time.monotonic() + self._wait
        self._wait = min(2 * self._wait, LONGEST_WAIT)
