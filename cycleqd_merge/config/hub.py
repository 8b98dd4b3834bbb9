"""Where and how a recipe publishes its run on the Hugging Face Hub."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
)

from cycleqd_merge.config.values import MAX_GENERATIONS, Repository, StrictConfig


class HubConfig(StrictConfig):
    """Publishing a run on the Hugging Face Hub. Sign in with `hf auth login` or HF_TOKEN; a recipe has no token."""

    repo: Repository
    """The model repository; the archive goes to the dataset repository of this name plus `-archive`."""
    private: bool = False
    """Make new repositories private."""
    every: int | None = Field(None, ge=1, le=MAX_GENERATIONS)
    """Also push the archive during the run, every this many generations."""
    archive: bool = True
    """Push the archive: every elite's genome and scores, all generations, the recipe; enough to restore the run."""
    rows: bool = False
    """Include local row files in the archive; without them others cannot resume the run."""
    root: str | None = "best-mean"
    """The model at the root of `repo`: a name that `export` accepts; null for none."""
    elites: list[str] = Field(default_factory=list)
    """Further models: names that `export` accepts, `all-best` (the best of each task and of the mean) or `pareto`."""
    layout: Literal["subfolders", "repos"] = "subfolders"
    """Put further models into subfolders of `repo`, or into separate repositories in a collection."""
    license: str | None = None
    """Licence identifier on the Hub; by default that of the base and the experts, which must then have the same one."""
    adapters: bool = False
    """Push models as LoRA adapters on the base; all experts must be adapters."""

    space: bool = False
    """Push the run's report page as a static Space."""

    @property
    def archive_repo(self) -> str:
        """The dataset repository of the archive."""
        return f"{self.repo}-archive"
