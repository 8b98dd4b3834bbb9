"""Where and how a recipe publishes its run on the Hugging Face Hub."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
)

from cycleqd_merge.config.values import Repository, StrictConfig


class HubConfig(StrictConfig):
    """Publishing a run on the Hugging Face Hub. The token comes from HF_TOKEN or `hf auth login`, never from here."""

    repo: Repository
    """The model repository; the archive goes to the dataset repository of this name plus `-archive`."""
    private: bool = False
    """Create missing repositories as private."""
    every: int | None = Field(None, ge=1)
    """Also push the archive during the run, every this many generations."""
    archive: bool = True
    """Push the archive: every elite's genome and scores, all generations, the recipe; enough to restore the run."""
    rows: bool = False
    """Include local row files in the archive; without them others cannot resume the run."""
    root: str | None = "best-mean"
    """The model at the root of `repo`, by a name that `export` takes; null: none."""
    elites: list[str] = Field(default_factory=list)
    """Further models: names that `export` takes, `best`, `all-best` (of each task and of the mean), `pareto`."""
    layout: Literal["subfolders", "repos"] = "subfolders"
    """Put further models into subfolders of `repo`, or into separate repositories in a collection."""
    license: str | None = None
    """Licence of what is pushed, by its Hub id; by default the parents', which must then be the same."""
    adapters: bool = False
    """Push models as LoRA adapters on the base; all experts must be adapters."""

    space: bool = False
    """Push the run's page, as `report` writes it, as a static Space."""

    @property
    def archive_repo(self) -> str:
        """The dataset repository of the archive."""
        return f"{self.repo}-archive"
