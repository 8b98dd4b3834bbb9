"""Task kind `python`: the user's own class."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from cycleqd_merge.errors import UserError
from cycleqd_merge.recipe.task_file import PythonTask
from cycleqd_merge.tasks.protocol import Task


def load_python_task(definition: PythonTask, folder: Path) -> Task:
    """An instance of the class that `definition.target` names; a path starts at `folder`.

    Raises:
        UserError: there is no such module, class or method, or the class refuses the options.
    """
    module_name, class_name = definition.target.split(":")
    module = _module(module_name, folder)
    cls = getattr(module, class_name, None)
    if cls is None:
        raise UserError(f"target {definition.target}: {module_name} holds no class {class_name}")
    try:
        task = cls(**definition.options)
    except TypeError as error:
        raise UserError(f"target {definition.target}: {error}") from error
    for method in ("samples", "score"):
        if not callable(getattr(task, method, None)):
            raise UserError(f"target {definition.target}: a task needs the method {method!r}")
    return task  # type: ignore[no-any-return]


def _module(name: str, folder: Path) -> ModuleType:
    if not name.endswith(".py"):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"target {name}: {error}; is it on PYTHONPATH?") from error
    path = folder / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(f"target {path}: no such file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
