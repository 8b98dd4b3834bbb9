"""What a plan says: what is loaded, what is searched, what it takes; as values and for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cycleqd_merge.errors import UserError
from cycleqd_merge.report.progress import duration, size

_MOST_GROUPS = 12
_Opened = TypeVar("_Opened")


@dataclass(frozen=True)
class ModelFacts:
    """A model as it lies on disk. `rank`: of an adapter; None for a full checkpoint. `dtypes`: tensors of each."""

    name: str
    reference: str
    path: str
    bytes: int
    tensors: int
    parameters: int
    dtypes: dict[str, int]
    rank: int | None


@dataclass(frozen=True)
class TaskFacts:
    """A task's number of samples per kind of rows, and what it works on beside the model, such as a sandbox."""

    name: str
    role: str
    search: int
    confirm: int
    heldout: int
    surroundings: str = ""
    floor: float | None = None


@dataclass(frozen=True)
class BasesFacts:
    """Singular bases of one expert. loss: the share of the task vectors' norm that truncation leaves out. skew: how far
    the stored vectors, float32, are from orthonormal."""

    name: str
    directions: int
    loss: float
    skew: float


@dataclass(frozen=True)
class DiskUse:
    """Bytes that a run will write to a folder, and how many are free there."""

    purpose: str
    folder: str
    needed: int
    free: int


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that a worker takes at its peak, by place, and how many there are. `measured`: on an evaluation."""

    place: str
    needed: int
    available: int
    measured: bool


@dataclass(frozen=True)
class Time:
    """Seconds that a run will take. `evaluation`: one child, weights and answers; all others: in all."""

    evaluation: float
    load: float
    evaluations: int
    setup: float
    bases: float
    confirm: float
    finish: float
    workers: int = 1

    @property
    def total(self) -> float:
        """The whole run."""
        scored = self.evaluations * self.evaluation + self.confirm
        return self.setup + self.bases + scored / self.workers + self.finish

    @property
    def per_hour(self) -> float:
        """Children that a further hour buys."""
        return 3600 * self.workers / self.evaluation


@dataclass
class Plan:
    """What a run will load, take and give. `faults` forbid it; `notices` do not."""

    faults: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    models: list[ModelFacts] = field(default_factory=list)
    groups: dict[str, int] = field(default_factory=dict)
    """Tensors per coefficient group."""
    tasks: list[TaskFacts] = field(default_factory=list)
    cells: dict[str, int] = field(default_factory=dict)
    """Cells per archive."""
    bases: list[BasesFacts] = field(default_factory=list)
    similarity: dict[str, float] = field(default_factory=dict)
    """Model similarity of every pair of experts whose bases are there, as `one, other`."""
    disk: list[DiskUse] = field(default_factory=list)
    memory: list[MemoryUse] = field(default_factory=list)
    time: Time | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        values = asdict(self)
        if self.time is not None:
            values["time"] |= {"total": self.time.total, "per_hour": self.time.per_hour}
        return values

    def attempt(self, step: Callable[..., _Opened], *arguments: Any) -> _Opened | None:
        """Call a step; what is wrong with its input becomes faults, a line each."""
        try:
            return step(*arguments)
        except UserError as error:
            self.faults.append(str(error))
            return None


def plan_report(plan: Plan) -> RenderableType:
    """Everything that a plan found but its faults."""
    parts: list[RenderableType] = [_models(plan.models), _groups(plan), _tasks(plan.tasks), _search(plan)]
    if plan.bases:
        parts.append(_bases(plan.bases))
    if plan.similarity:
        pairs = (f"{pair} {value:.3f}" for pair, value in plan.similarity.items())
        parts.append(Text("Model similarity (cosine of singular values): " + "; ".join(pairs)))
    parts.append(_needs(plan))
    if plan.notices:
        parts.append(Text("Notices", style="bold"))
        parts.extend(Text(f"- {notice}") for notice in plan.notices)
    return Group(*parts)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _models(models: Sequence[ModelFacts]) -> Table:
    table = _table("Models", "model", "kind", "parameters", "tensors", "dtypes", "size", "from")
    for model in models:
        kind = "full" if model.rank is None else f"LoRA, rank {model.rank}"
        dtypes = ", ".join(model.dtypes)
        table.add_row(
            model.name, kind, f"{model.parameters:,}", str(model.tensors), dtypes, size(model.bytes), model.path
        )
    return table


def _groups(plan: Plan) -> Table:
    table = _table(f"Coefficient groups: {len(plan.groups)}", "group", "tensors")
    for label, tensors in list(plan.groups.items())[:_MOST_GROUPS]:
        table.add_row(label, str(tensors))
    if len(plan.groups) > _MOST_GROUPS:
        table.add_row(f"... {len(plan.groups) - _MOST_GROUPS} more", "")
    return table


def _tasks(tasks: Sequence[TaskFacts]) -> Table:
    table = _table("Tasks: rows", "task", "role", "search", "confirm", "held-out", "works on")
    for task in tasks:
        counts = (task.search, task.confirm, task.heldout)
        role = task.role if task.floor is None else f"{task.role}, at least {task.floor:g}"
        table.add_row(task.name, role, *map(str, counts), task.surroundings)
    return table


def _search(plan: Plan) -> Text:
    return Text("Cells: " + ", ".join(f"{task} {cells:,}" for task, cells in plan.cells.items()))


def _bases(bases: Sequence[BasesFacts]) -> Table:
    table = _table("Singular bases, stored in float32", "expert", "directions", "left out of the norm", "V^T V off by")
    for each in bases:
        table.add_row(each.name, f"{each.directions:,}", f"{each.loss:.2%}", f"{each.skew:.1e}")
    return table


def _needs(plan: Plan) -> Table:
    table = _table("The run takes", "what", "needs", "there are")
    for disk in plan.disk:
        table.add_row(f"disk, {disk.purpose}", size(disk.needed), f"{size(disk.free)} in {disk.folder}")
    for memory in plan.memory:
        how = "measured" if memory.measured else "at least, not measured"
        table.add_row(f"memory of a worker, {memory.place} ({how})", size(memory.needed), size(memory.available))
    if plan.time is not None:
        time = plan.time
        table.add_row("one evaluation", f"{time.evaluation:.2f} s", f"{time.load:.2f} s of it to build the weights")
        table.add_row("to begin, singular bases", f"{duration(time.setup)}, {duration(time.bases)}", "")
        table.add_row("evaluations", str(time.evaluations), f"workers: {time.workers}; {time.per_hour:.0f} per hour")
        table.add_row("to confirm, to finish", f"{duration(time.confirm)}, {duration(time.finish)}", "")
        table.add_row("the run", duration(time.total), "")
    return table
