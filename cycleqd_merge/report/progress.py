"""Telling how a run goes on: live on a terminal, a line per generation elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from cycleqd_merge.journal.log import Event
from cycleqd_merge.journal.replay import Replay
from cycleqd_merge.report.tables import overview


class Progress:
    """Observes a run. On a terminal one block is drawn over and over, elsewhere every result is a line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._since = time.monotonic()
        self._already = 0

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def bases(self, expert: str, done: int, total: int) -> None:
        """Singular bases of an expert are being computed."""
        line = f"singular bases of {expert}: {done} of {total} matrices"
        if self._live is not None:
            self._live.update(Text(line))
        elif done == total:
            self._console.print(line, highlight=False)

    def fetching(self, repo: str, done: int, total: int) -> None:
        """A repository of the Hub is being downloaded; bytes."""
        line = f"downloading {repo}: {size(done)} of {size(total)}"
        if self._live is not None:
            self._live.update(Text(line))
        elif done in (0, total):
            self._console.print(line, highlight=False)

    def started(self, replay: Replay) -> None:
        """See `run.evolve.Observer`."""
        self._since, self._already = time.monotonic(), replay.schedule.told
        if replay.schedule.told:
            self._console.print(f"going on after generation {replay.generation}", highlight=False)

    def told(self, replay: Replay, event: Event) -> None:
        """See `run.evolve.Observer`."""
        if self._live is not None:
            self._live.update(self._block(replay, event))
        else:
            self._console.print(self._line(replay, event), highlight=False, soft_wrap=True)

    def _line(self, replay: Replay, event: Event) -> str:
        number = event["number"]
        if number < len(replay.experts):
            what = f"expert {replay.experts[number]}"
        elif number < replay.space.first:
            what = f"seed {number - len(replay.experts) + 1}/{len(replay.space.seeds)}"
        else:
            what = f"generation {replay.generation}/{replay.generations}{self._kind(replay, number)}"
        if event.get("censored"):
            return f"{what}: dropped after {event['scored']} of {event['rows']} rows: it can enter no archive"
        if event["scores"] is None:
            return f"{what}: failed: {event['error']}"
        scores = " ".join(f"{task} {score:.3f}" for task, score in zip(replay.tasks, event["scores"], strict=True))
        each, left = self._pace(replay)
        return f"{what}: {scores} | {self._archives(replay)} | {each:.1f} s each, {duration(left)} left"

    def _kind(self, replay: Replay, number: int) -> str:
        """What is special about a generation: its merge method, or the task that is the quality."""
        if "merge" in replay.steps[number]:
            return f" ({replay.steps[number]['merge']})"
        cycling = "parents" in replay.steps[number] and replay.recipe.evolution.cycling
        return f" ({replay.objectives[replay.generation % len(replay.objectives)]})" if cycling else ""

    def _archives(self, replay: Replay) -> str:
        best = [archive.best() for archive in replay.archives]
        qualities = "/".join(f"{elite.scores[elite.task]:.3f}" for elite in best if elite is not None)
        covered = "/".join(f"{archive.coverage:.0%}" for archive in replay.archives)
        qd = sum(archive.qd_score for archive in replay.archives)
        return f"best {qualities or '-'} coverage {covered or '-'} QD {qd:.2f}"

    def _block(self, replay: Replay, event: Event) -> RenderableType:
        return Group(Text(self._line(replay, event)), overview(replay.archives, replay.objectives))

    def _pace(self, replay: Replay) -> tuple[float, float]:
        """Seconds per evaluation in this session, and seconds left."""
        done = max(replay.schedule.told - self._already, 1)
        each = (time.monotonic() - self._since) / done
        return each, each * (replay.schedule.total - replay.schedule.told)


def duration(seconds: float) -> str:
    """Seconds for people: 1h05m, or 3m07s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


class Milestones:
    """Observes one of several runs: a line at its begin, and after every tenth of its generations."""

    def __init__(self, console: Console, name: str) -> None:
        self._console, self._name = console, name

    def started(self, replay: Replay) -> None:
        """See `run.evolve.Observer`."""
        self._say(f"going on after generation {replay.generation}" if replay.schedule.told else "begun")

    def told(self, replay: Replay, event: Event) -> None:
        """See `run.evolve.Observer`."""
        done, total = replay.generation, replay.generations
        if done and (done == total or done * 10 // total > (done - 1) * 10 // total):
            best = max(replay.mean(tuple(each["scores"])) for each in replay.results if each["scores"] is not None)
            self._say(f"generation {done}/{total}, best mean {best:.3f}")

    def _say(self, what: str) -> None:
        self._console.print(f"{self._name}: {what}", highlight=False, soft_wrap=True)


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
