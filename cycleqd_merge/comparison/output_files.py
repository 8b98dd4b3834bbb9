"""The files that a comparison writes into its folder: result, tables and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cycleqd_merge.comparison.results import ComparisonResult, result_to_json
from cycleqd_merge.comparison.tables import ComparisonReport, report_to_csv, report_to_markdown
from cycleqd_merge.evolution.archive import Archive
from cycleqd_merge.files import write_atomically

RESULT_FILE = "comparison.json"


def write_outputs(
    result: ComparisonResult, report: ComparisonReport, archives: Mapping[str, Sequence[Archive]], folder: Path
) -> list[Path]:
    """Write `comparison.json` (the result), `comparison.md` and CSV tables, and PNG and SVG files in `figures`.

    archives: by strategy. Returns the paths.
    """
    from cycleqd_merge.comparison.figures import curves_figure, strategy_archives_figure, winners_figure
    from cycleqd_merge.report.figures import save

    texts = {
        RESULT_FILE: json.dumps(result_to_json(result), indent=1) + "\n",
        "comparison.md": report_to_markdown(report),
        **{f"{name}.csv": text for name, text in report_to_csv(report).items()},
    }
    for name, text in texts.items():
        write_atomically(folder / name, text)
    figures = folder / "figures"
    paths = save(curves_figure(result), figures, "curves")
    paths += save(strategy_archives_figure(archives, result.tasks), figures, "archives")
    paths += save(winners_figure(result, report.models), figures, "winners")
    return [*(folder / name for name in texts), *paths]
