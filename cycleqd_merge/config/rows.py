"""Sources of a task's rows, and their division into a search and a held-out split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import Discriminator, Field, Tag, model_validator

from cycleqd_merge.config.validation_errors import KeyProblem
from cycleqd_merge.config.values import MAX_SEED, StrictConfig


class RowsConfig(StrictConfig):
    """Where rows come from: a JSONL, JSON, CSV or Parquet file, here or on the web, or a Hub dataset."""

    path: str | None = None
    """A file; a relative path starts at the folder of the file that names it."""
    url: str | None = None
    """A file on the web, instead of `path`; it is cached and requires a `sha256`."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """The file's SHA-256."""
    dataset: str | None = None
    """A dataset id on the Hub, instead of `path`."""
    config: str | None = None
    """The dataset's configuration."""
    split: str = "train"
    """The dataset's split."""
    revision: str | None = None
    """Branch, tag or commit of the dataset."""
    only: list[Annotated[int, Field(ge=0)]] | None = Field(None, min_length=1)
    """Positions of the rows to use, counted from 0; by default all."""

    @model_validator(mode="after")
    def _one_source(self) -> RowsConfig:
        if sum(source is not None for source in (self.path, self.url, self.dataset)) != 1:
            raise ValueError("set one of `path` (a file), `url` (a file on the web) and `dataset` (a Hub id)")
        if self.url is not None and self.sha256 is None:
            raise KeyProblem("requires the file's `sha256`", "url")
        if self.dataset is not None and self.sha256 is not None:
            raise KeyProblem("applies to files; pin a dataset by its `revision`", "sha256")
        return self

    @property
    def label(self) -> str:
        """The source's name in messages."""
        return str(self.path or self.url or self.dataset)


class SplitRowsConfig(StrictConfig):
    """One set of rows, divided into two halves by the task's own seed."""

    rows: RowsConfig
    """All rows; half of them, drawn by `seed`, are the search split, the others the held-out split."""
    seed: int = Field(0, ge=-MAX_SEED, le=MAX_SEED)
    """Seed of the division; it is part of the task, not of a run."""


class TwoFilesConfig(StrictConfig):
    """Rows that are already divided."""

    search: RowsConfig
    """The search split."""
    heldout: RowsConfig
    """The held-out split, which the search never uses."""


def _data_form(value: Any) -> str:
    divided = isinstance(value, TwoFilesConfig) or (
        isinstance(value, Mapping) and not value.keys().isdisjoint(_DIVIDED)
    )
    return "TwoFiles" if divided else "SplitRows"


_DIVIDED = TwoFilesConfig.model_fields.keys()


DataConfig = Annotated[
    Annotated[SplitRowsConfig, Tag("SplitRows")] | Annotated[TwoFilesConfig, Tag("TwoFiles")], Discriminator(_data_form)
]


_Definition = TypeVar("_Definition", bound=StrictConfig)


def row_sources(definition: StrictConfig) -> list[RowsConfig]:
    """The sources of a task definition's rows; none for kinds that have their own."""
    data: SplitRowsConfig | TwoFilesConfig | None = getattr(definition, "data", None)
    if data is None:
        return []
    return [data.rows] if isinstance(data, SplitRowsConfig) else [data.search, data.heldout]


def with_row_sources(definition: _Definition, change: Callable[[RowsConfig], RowsConfig]) -> _Definition:
    """The task definition with each source of its rows changed."""
    data: SplitRowsConfig | TwoFilesConfig | None = getattr(definition, "data", None)
    if data is None:
        return definition
    parts = ("rows",) if isinstance(data, SplitRowsConfig) else ("search", "heldout")
    sources = {part: change(getattr(data, part)) for part in parts}
    return definition.model_copy(update={"data": data.model_copy(update=sources)})


def with_pinned_rows(definition: _Definition, revisions: Mapping[str, str]) -> _Definition:
    """The task definition with its Hub datasets at the commits that `Recipe.revisions` states."""

    def pin(source: RowsConfig) -> RowsConfig:
        sha = revisions.get(dataset_key(source)) if source.dataset is not None else None
        return source if sha is None else source.model_copy(update={"revision": sha})

    return with_row_sources(definition, pin)


def dataset_key(source: RowsConfig) -> str:
    """The key of a Hub dataset in `Recipe.revisions`."""
    return f"datasets/{source.dataset}" + (f"@{source.revision}" if source.revision else "")
