"""What `plan` finds out about a recipe: errors, notices, and estimates of time, memory and disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from cycleqd_merge.errors import UserError

_Opened = TypeVar("_Opened")


@dataclass(frozen=True)
class ModelSummary:
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
class TaskSummary:
    """A task's number of samples per kind of rows, and what it works on beside the model, such as a sandbox."""

    name: str
    role: str
    search: int
    confirm: int
    heldout: int
    environment: str = ""
    floor: float | None = None


@dataclass(frozen=True)
class BasesSummary:
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
class TimeEstimate:
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
    models: list[ModelSummary] = field(default_factory=list)
    groups: dict[str, int] = field(default_factory=dict)
    """Tensors per coefficient group."""
    tasks: list[TaskSummary] = field(default_factory=list)
    cells: dict[str, int] = field(default_factory=dict)
    """Cells per archive."""
    bases: list[BasesSummary] = field(default_factory=list)
    similarity: dict[str, float] = field(default_factory=dict)
    """Model similarity of every pair of experts whose bases are there, as `one, other`."""
    disk: list[DiskUse] = field(default_factory=list)
    memory: list[MemoryUse] = field(default_factory=list)
    time: TimeEstimate | None = None

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
