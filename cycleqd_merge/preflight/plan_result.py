"""The result of `plan`: errors, notices, and estimates of time, memory and disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cycleqd_merge.errors import UserError

_Returned = TypeVar("_Returned")


@dataclass(frozen=True)
class ModelSummary:
    """A model on disk. rank: of an adapter; None for a full checkpoint. dtypes: number of tensors of each."""

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
    """A task's number of samples per split, and the environment that it needs besides the model, such as a sandbox."""

    name: str
    role: str
    search: int
    confirm: int
    heldout: int
    environment: str = ""
    floor: float | None = None


@dataclass(frozen=True)
class BasesSummary:
    """Singular bases of one expert. loss: the share of the task vectors' norm that truncation drops. skew: how far the
    stored float32 vectors are from orthonormal."""

    name: str
    directions: int
    loss: float
    skew: float


@dataclass(frozen=True)
class FitSummary:
    """The fits that a run learns before its first child: their number, and the steps of all together.

    tasks: names of those that they learn. left_out: by task that they do not learn, why. tokens: an estimate of those
    that go through the model, without padding; None if no answer was measured.
    """

    fits: int
    steps: int
    tasks: list[str]
    left_out: dict[str, str]
    tokens: int | None = None


@dataclass(frozen=True)
class DiskUse:
    """Bytes that a run will write to a folder, and bytes available there."""

    purpose: str
    folder: str
    needed: int
    free: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "free", shutil.disk_usage(existing(Path(self.folder))).free)


def existing(folder: Path) -> Path:
    """The folder, or its nearest existing parent."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


@dataclass(frozen=True)
class MemoryUse:
    """A worker's peak memory in one place, and the memory available there, in bytes. measured: in an evaluation."""

    place: str
    needed: int
    available: int
    measured: bool


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds that a run will take. evaluation: one child, weights and answers; all others: in total."""

    evaluation: float
    load: float
    evaluations: int
    setup: float
    bases: float
    confirm: float
    finish: float
    workers: int = 1
    fits: float = 0.0

    @property
    def total(self) -> float:
        """The whole run."""
        scored = self.evaluations * self.evaluation + self.confirm
        return self.setup + self.bases + self.fits + scored / self.workers + self.finish

    @property
    def per_hour(self) -> float:
        """Number of children per additional hour."""
        return 3600 * self.workers / self.evaluation


@dataclass
class Plan:
    """Everything that a run will load, use and write. `errors` prevent the run; `notices` do not."""

    errors: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    models: list[ModelSummary] = field(default_factory=list)
    groups: dict[str, int] = field(default_factory=dict)
    """Tensors per coefficient group."""
    tasks: list[TaskSummary] = field(default_factory=list)
    cells: dict[str, int] = field(default_factory=dict)
    """Cells per archive; empty if archives have none."""
    capacity: int | None = None
    """Number of elites that an archive without cells keeps; None if archives have cells."""
    bases: list[BasesSummary] = field(default_factory=list)
    similarity: dict[str, float] = field(default_factory=dict)
    """Model similarity of every pair of experts whose singular bases are cached, by `one, other`."""
    fit: FitSummary | None = None
    disk: list[DiskUse] = field(default_factory=list)
    memory: list[MemoryUse] = field(default_factory=list)
    time: TimeEstimate | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values, some also under the keys of version 0.1, which are deprecated until 0.3."""
        values = asdict(self)
        values["faults"] = values["errors"]
        for task in values["tasks"]:
            task["surroundings"] = task["environment"]
        if self.time is not None:
            values["time"] |= {"total": self.time.total, "per_hour": self.time.per_hour}
        return values

    def attempt(self, step: Callable[..., _Returned], *arguments: Any) -> _Returned | None:
        """Call a step; its UserError becomes errors, one per line, unless an earlier step has reported it."""
        try:
            return step(*arguments)
        except UserError as error:
            if str(error) not in self.errors:
                self.errors.append(str(error))
            return None
