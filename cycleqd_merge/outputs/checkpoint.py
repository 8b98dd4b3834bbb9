"""Writing a model to a folder, which is complete and verified once it exists."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cycleqd_merge.errors import RecipeError
from cycleqd_merge.files import new_folder
from cycleqd_merge.merging.fit_files import MODEL_FITS, write_fits
from cycleqd_merge.merging.rebuild_command import CONFIGURATION


def write_model(
    fill: Callable[[Path], None],
    out: Path,
    record: Mapping[str, Any],
    configuration: str,
    verify: Callable[[Path], None],
    fits: Sequence[str] = (),
) -> None:
    """Let `fill` write a model, add its record and configuration, verify the result, and name the folder `out`.

    `record` becomes `genome.json`, `configuration` becomes `mergekit_config.yml`. fits: digests of those that the model
    has shares of, written to `cycleqd/fits`. The folder gets its final name only
    when it is complete and `verify`, called with the folder, has passed.

    Raises:
        RecipeError: `out` exists and is not empty, or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecipeError(f"{out}: already exists; choose a different folder")
    with new_folder(out) as unfinished:
        fill(unfinished)
        (unfinished / "genome.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (unfinished / CONFIGURATION).write_text(configuration, encoding="utf-8")
        write_fits(unfinished / MODEL_FITS, fits)
        verify(unfinished)
