"""Task kind `python`: the user's own class."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from cycleqd_merge.errors import UserError
from cycleqd_merge.recipe.task_file import PythonTask
from cycleqd_merge.tasks.protocol import Task


def load_python_task(definition: PythonTask, folder: Path) -> Task:
    """An instance of the class that `definition.target` names; a path starts at `folder`.

    Raises:
        UserError: there is no such module, class or method, the module fails, or the class refuses the options.
    """
    module_name, class_name = definition.target.split(":")
    module = _module(module_name, folder)
    cls = getattr(module, class_name, None)
    if cls is None:
        raise UserError(f"target {definition.target}: {module_name} holds no class {class_name}")
    try:
        task = cls(**definition.options)
    except (TypeError, ValueError) as error:
        raise UserError(f"target {definition.target}: {error}") from error
    for method in ("samples", "score"):
        if not callable(getattr(task, method, None)):
            raise UserError(f"target {definition.target}: a task needs the method {method!r}")
    return task  # type: ignore[no-any-return]


def _module(name: str, folder: Path) -> ModuleType:
    try:
        return _from_file(folder / name) if name.endswith(".py") else importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"target {name}: {error}; is it on PYTHONPATH?") from error
    except UserError:
        raise
    except Exception as error:  # the user's module may raise anything
        raise UserError(f"target {name}: {type(error).__name__}: {error}") from error


def _from_file(path: Path) -> ModuleType:
    # a name of its own, for a task file may be called like a module that others import
    name = f"cycleqd_task_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(f"target {path}: no such file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    spec.loader.exec_module(module)
    return module
