"""What a comparison leaves in its folder: findings, tables and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cycleqd_merge.comparison.figures import curves_figure, families_figure, winners_figure
from cycleqd_merge.comparison.results import Findings, to_json
from cycleqd_merge.comparison.tables import Report, csv_files, markdown
from cycleqd_merge.evolution.archive import Archive
from cycleqd_merge.report.figures import save

FINDINGS = "comparison.json"


def write(findings: Findings, said: Report, archives: Mapping[str, Sequence[Archive]], out: Path) -> list[Path]:
    """Write `comparison.json` (findings), `comparison.md` and CSV tables, and PNG and SVG figures below `figures`.

    archives: per search, those that it filled. Returns the paths.
    """
    texts = {
        FINDINGS: json.dumps(to_json(findings), indent=1) + "\n",
        "comparison.md": markdown(said),
        **{f"{name}.csv": text for name, text in csv_files(said).items()},
    }
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    figures = out / "figures"
    paths = save(curves_figure(findings), figures, "curves")
    paths += save(families_figure(archives, findings.tasks), figures, "archives")
    paths += save(winners_figure(findings, said.verdicts), figures, "winners")
    return [*(out / name for name in texts), *paths]
