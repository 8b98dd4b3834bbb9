"""Model references: Hub ids or folders, with `@revision` and `+adapter`. A folder that exists wins over both signs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_PATH = ("/", "./", "../", "~")
"""Beginnings of texts that can only be paths."""


@dataclass(frozen=True)
class ModelName:
    """A Hub id or a folder, and a revision if one is stated."""

    path: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.path if self.revision is None else f"{self.path}@{self.revision}"


def model_names(reference: str, folder: Path = Path()) -> tuple[ModelName, ...]:
    """The model that a reference names, and its adapter if it names one.

    A folder that exists is one name, even if its path contains `+` or `@`. Where nothing tells how to divide the text,
    it is one name. folder: the one that relative paths start at.
    """
    if _exists(reference, folder):
        return (ModelName(reference),)
    divided = [(reference[:at], reference[at + 1 :]) for at, sign in enumerate(reference) if sign == "+"]
    best = max(divided, key=lambda parts: sorted(_likelihood(part, folder) for part in parts), default=None)
    if best is None or min(_likelihood(part, folder) for part in best) == 0:
        return (_name(reference, folder),)
    return tuple(_name(part, folder) for part in best)


def is_malformed(name: ModelName) -> bool:
    """Whether a name is neither a Hub id nor a path because of a `+` or `@` that nothing explains."""
    return not name.path.startswith(_PATH) and bool(re.search(r"[+@]", name.path)) and not Path(name.path).is_dir()


def anchored_reference(reference: str, folder: Path) -> str:
    """The reference with absolute paths: of folders that exist in `folder`, and of all else that can only be a path."""
    return "+".join(str(ModelName(_anchored(name, folder), name.revision)) for name in model_names(reference, folder))


def hub_id(path: str) -> str | None:
    """A model's path (without `@revision`) if it is a Hub id; None if it is a local folder or has the form of one."""
    return path if _HUB_ID.fullmatch(path) and not Path(path).exists() else None


def _anchored(name: ModelName, folder: Path) -> str:
    may_be_path = name.path.startswith(_PATH) or ("/" in name.path and not _HUB_ID.fullmatch(name.path))
    if _exists(name.path, folder) or (may_be_path and not is_malformed(name)):
        return os.path.abspath(folder / os.path.expanduser(name.path))
    return name.path


def _name(text: str, folder: Path) -> ModelName:
    """One name: a revision counts only after a Hub id or a folder that exists."""
    path, sign, revision = text.rpartition("@")
    if not sign or not revision or _exists(text, folder):
        return ModelName(text)
    return ModelName(path, revision) if _HUB_ID.fullmatch(path) or _exists(path, folder) else ModelName(text)


def _likelihood(text: str, folder: Path) -> int:
    """How likely a text is one name: it exists (3), has the form of a Hub id (2) or of a path (1), or neither (0)."""
    name = _name(text, folder)
    if _exists(name.path, folder):
        return 3
    if _HUB_ID.fullmatch(name.path):
        return 2
    return int(name.path.startswith(_PATH) or ("/" in name.path and not re.search(r"[+@]", name.path)))


def _exists(path: str, folder: Path) -> bool:
    return bool(path) and (folder / os.path.expanduser(path)).is_dir()
