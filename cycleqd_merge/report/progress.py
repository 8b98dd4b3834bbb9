"""The progress of a run: a live display on a terminal, a line per result elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.text import Text

from cycleqd_merge.journal.log import Event
from cycleqd_merge.report.tables import overview
from cycleqd_merge.run.observer import Observer
from cycleqd_merge.run.state import Run


class ProgressDisplay(Observer):
    """Shows a run's progress: on a terminal in one block that is redrawn, elsewhere in a line per result."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._since = time.monotonic()
        self._already = 0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the live display; later output stays on the screen."""
        if self._live is not None:
            self._live.stop()

    def computing_bases(self, expert: str, done: int, total: int) -> None:
        """See `Observer`."""
        line = f"singular bases of {expert}: {done} of {total} matrices"
        if self._live is not None:
            self._live.update(Text(line))
        elif done == total:
            self._console.print(line, highlight=False)

    def downloading(self, repo: str, done: int, total: int) -> None:
        """See `Observer`."""
        line = f"downloading {repo}: {decimal(done)} of {decimal(total)}"
        if self._live is not None:
            self._live.update(Text(line))
        elif done in (0, total):
            self._console.print(line, highlight=False)

    def started(self, run: Run) -> None:
        """See `Observer`."""
        self._since, self._already = time.monotonic(), run.schedule.received
        if run.schedule.received:
            self._console.print(f"resuming after generation {run.generation}", highlight=False)

    def evaluated(self, run: Run, event: Event) -> None:
        """See `Observer`."""
        if self._live is not None:
            self._live.update(self._block(run, event))
        else:
            self._console.print(self._line(run, event), highlight=False, soft_wrap=True)

    def fitting(self, run: Run, numbers: Sequence[int]) -> None:
        """See `Observer`."""
        which = ", ".join(str(number + 1) for number in numbers)
        self._show(f"learning fit {which} of {run.search.space.fits} ...")

    def fitted(self, run: Run, event: Event) -> None:
        """See `Observer`."""
        self._since += sum(event["seconds"].values())  # not the time of an evaluation
        self._show(f"fit {event['number'] + 1}/{run.search.space.fits}: {learned_line(event)}")

    def _show(self, line: str) -> None:
        if self._live is not None:
            self._live.update(Text(line))
        else:
            self._console.print(line, highlight=False, soft_wrap=True)

    def _line(self, run: Run, event: Event) -> str:
        number = event["number"]
        if number < len(run.experts):
            what = f"expert {run.experts[number]}"
        elif number < run.search.first - run.search.space.fits:
            what = f"founder {number - len(run.experts) + 1}/{len(run.search.space.founders)}"
        elif number < run.search.first:
            what = f"fit {run.steps[number]['fit'] + 1}/{run.search.space.fits}"
        else:
            what = f"generation {run.generation}/{run.generations}{self._kind(run, number)}"
        if event.get("censored"):
            race = run.recipe.evolution.race
            why = "it cannot enter any archive" if race is None or race.best is None else "it is not among the best"
            return f"{what}: rejected after {event['scored']} of {event['rows']} rows: {why}"
        if event["scores"] is None:
            return f"{what}: failed: {event['error']}"
        scores = " ".join(f"{task} {score:.3f}" for task, score in zip(run.tasks, event["scores"], strict=True))
        each, left = self._pace(run)
        return f"{what}: {scores} | {self._archives(run)} | {each:.1f} s each, {duration(left)} left"

    def _kind(self, run: Run, number: int) -> str:
        """Details of a generation: its merge method, or the task whose score is the quality."""
        if "merge" in run.steps[number]:
            return f" ({run.steps[number]['merge']})"
        cycling = "parents" in run.steps[number] and run.recipe.evolution.cycling
        return f" ({run.objectives[run.generation % len(run.objectives)]})" if cycling else ""

    def _archives(self, run: Run) -> str:
        best = [archive.best() for archive in run.archives]
        qualities = "/".join(f"{elite.scores[elite.task]:.3f}" for elite in best if elite is not None)
        covered = "/".join(f"{archive.coverage:.0%}" for archive in run.archives)
        qd = sum(archive.qd_score for archive in run.archives)
        return f"best {qualities or '-'} coverage {covered or '-'} QD {qd:.2f}"

    def _block(self, run: Run, event: Event) -> RenderableType:
        return Group(Text(self._line(run, event)), overview(run.archives, run.objectives))

    def _pace(self, run: Run) -> tuple[float, float]:
        """Seconds per evaluation in this session, and seconds left."""
        done = max(run.schedule.received - self._already, 1)
        each = (time.monotonic() - self._since) / done
        return each, each * (run.schedule.total - run.schedule.received)


def learned_line(event: Event) -> str:
    """How a fit was learned, in one line. event: the journal's `fit` event."""
    weights = ", ".join(f"{task} {weight:g}" for task, weight in event["weights"].items())
    first, last = event["loss"]
    seconds = duration(sum(event["seconds"].values()))
    return f"{weights}: loss {first:.3f} to {last:.3f} in {event['steps']} steps, {event['tokens']:,} tokens, {seconds}"


def duration(seconds: float) -> str:
    """Seconds as text: 1h05m or 3m07s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


class Milestones(Observer):
    """Shows the progress of one of several runs: a line at its start and after every tenth of its generations."""

    def __init__(self, console: Console, name: str) -> None:
        self._console, self._name = console, name

    def started(self, run: Run) -> None:
        """See `Observer`."""
        self._say(f"resuming after generation {run.generation}" if run.schedule.received else "started")

    def evaluated(self, run: Run, event: Event) -> None:
        """See `Observer`."""
        done, total = run.generation, run.generations
        if done and (done == total or done * 10 // total > (done - 1) * 10 // total):
            best = max(run.mean(tuple(each["scores"])) for each in run.results if each["scores"] is not None)
            self._say(f"generation {done}/{total}, best mean {best:.3f}")

    def fitted(self, run: Run, event: Event) -> None:
        """See `Observer`."""
        self._say(f"fit {event['number'] + 1}/{run.search.space.fits}: {learned_line(event)}")

    def _say(self, what: str) -> None:
        self._console.print(f"{self._name}: {what}", highlight=False, soft_wrap=True)
