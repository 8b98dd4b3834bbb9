"""Callbacks for a run's progress: subclass `Observer` and override the methods that you need."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cycleqd_merge.evolution.archive import Scores
    from cycleqd_merge.journal.log import Event
    from cycleqd_merge.run.state import Run

log = logging.getLogger(__name__)


class Observer:
    """Receives a run's progress, in the process that calls `evolve`. Every method does nothing unless overridden."""

    def downloading(self, repo: str, done: int, total: int) -> None:
        """A Hub repository is being downloaded: `done` of `total` bytes."""

    def computing_bases(self, expert: str, done: int, total: int) -> None:
        """Singular bases of an expert are being computed: `done` of `total` matrices."""

    def started(self, run: Run) -> None:
        """The run is ready, in the state that its journal recorded; evaluations start now."""

    def evaluated(self, run: Run, event: Event) -> None:
        """One more result was recorded. event: the journal's `result` event."""

    def fitting(self, run: Run, numbers: Sequence[int]) -> None:
        """The fits with these numbers are being learned; nothing is evaluated until all of them are."""

    def fitted(self, run: Run, event: Event) -> None:
        """One more fit was learned. event: the journal's `fit` event."""

    def searched(self, run: Run) -> None:
        """The last generation was evaluated and the best elites confirmed."""

    def exported(self, name: str, folder: Path) -> None:
        """A model that the recipe's `finish.export` names was written to `folder`."""

    def measured(self, run: Run, split: str, scores: Mapping[str, Scores]) -> None:
        """Models of the run were scored on `split`; scores by model, in the order of `run.tasks`."""

    def pushed(self, lines: Sequence[str]) -> None:
        """A Hub repository was updated; `lines` describe what was pushed."""


class Tolerated(Observer):
    """An observer whose failed output ends no run: a closed pipe, a full disk, a character that cannot be printed.

    The first failure is logged; the observer still receives every call.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._failed = False

    def _call(self, method: Callable[..., None], *arguments: object) -> None:
        try:
            method(*arguments)
        except (OSError, UnicodeError, ValueError) as error:
            if type(error) is ValueError and "closed file" not in str(error):  # what a closed stream raises
                raise
            if not self._failed:
                log.warning("the run continues, but an observer failed: %s: %s", type(error).__name__, error)
            self._failed = True

    def downloading(self, repo: str, done: int, total: int) -> None:
        self._call(self._observer.downloading, repo, done, total)

    def computing_bases(self, expert: str, done: int, total: int) -> None:
        self._call(self._observer.computing_bases, expert, done, total)

    def started(self, run: Run) -> None:
        self._call(self._observer.started, run)

    def evaluated(self, run: Run, event: Event) -> None:
        self._call(self._observer.evaluated, run, event)

    def fitting(self, run: Run, numbers: Sequence[int]) -> None:
        self._call(self._observer.fitting, run, numbers)

    def fitted(self, run: Run, event: Event) -> None:
        self._call(self._observer.fitted, run, event)

    def searched(self, run: Run) -> None:
        self._call(self._observer.searched, run)

    def exported(self, name: str, folder: Path) -> None:
        self._call(self._observer.exported, name, folder)

    def measured(self, run: Run, split: str, scores: Mapping[str, Scores]) -> None:
        self._call(self._observer.measured, run, split, scores)

    def pushed(self, lines: Sequence[str]) -> None:
        self._call(self._observer.pushed, lines)


class Observers(Observer):
    """Several observers as one: each receives every call, in their order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def downloading(self, repo: str, done: int, total: int) -> None:
        for each in self._observers:
            each.downloading(repo, done, total)

    def computing_bases(self, expert: str, done: int, total: int) -> None:
        for each in self._observers:
            each.computing_bases(expert, done, total)

    def started(self, run: Run) -> None:
        for each in self._observers:
            each.started(run)

    def evaluated(self, run: Run, event: Event) -> None:
        for each in self._observers:
            each.evaluated(run, event)

    def fitting(self, run: Run, numbers: Sequence[int]) -> None:
        for each in self._observers:
            each.fitting(run, numbers)

    def fitted(self, run: Run, event: Event) -> None:
        for each in self._observers:
            each.fitted(run, event)

    def searched(self, run: Run) -> None:
        for each in self._observers:
            each.searched(run)

    def exported(self, name: str, folder: Path) -> None:
        for each in self._observers:
            each.exported(name, folder)

    def measured(self, run: Run, split: str, scores: Mapping[str, Scores]) -> None:
        for each in self._observers:
            each.measured(run, split, scores)

    def pushed(self, lines: Sequence[str]) -> None:
        for each in self._observers:
            each.pushed(lines)
