"""Figures of a few bytes, for tests of everything but figures: drawing one takes half a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure


def savefig(figure: Figure, target: Any, *, format: str, **_: Any) -> None:
    """As `Figure.savefig`, to a file or path."""
    content = f"a figure as {format}".encode()
    if hasattr(target, "write"):
        target.write(content)
    else:
        Path(target).write_bytes(content)


def draw_quickly(patch: pytest.MonkeyPatch) -> None:
    """Let every figure be saved as a few bytes."""
    patch.setattr(Figure, "savefig", savefig)
