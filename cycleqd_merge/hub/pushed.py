"""The result of a push as lines of text and as JSON."""

from __future__ import annotations

from typing import Any

from rich.filesize import decimal

from cycleqd_merge.hub.draft import Pushed


def pushed_lines(pushed: Pushed, dry: bool = False) -> list[str]:
    """One line per repository; with `--dry-run`, one more for each file."""
    total = f"{len(pushed.added)} files, {decimal(sum(pushed.added.values()))}"
    if dry:
        files = [f"  {path} {decimal(count)}" for path, count in sorted(pushed.added.items())]
        return [f"{pushed.target.label}: would push {total}", *files, *(f"  - {path}" for path in pushed.removed)]
    if not pushed.changed:
        return [f"{pushed.target.label}: nothing has changed: {pushed.url}"]
    return [f"{pushed.target.label}: pushed {total}: {pushed.url}"]


def pushed_json(pushed: Pushed) -> dict[str, Any]:
    """The result of a push as JSON values."""
    return {
        "repo": pushed.target.repo,
        "kind": pushed.target.kind,
        "commit": pushed.commit,
        "url": pushed.url,
        "files": pushed.added,
        "removed": list(pushed.removed),
    }
