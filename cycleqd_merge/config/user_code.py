"""Loading a user's Python class or function: `module:Name` or `path/to/file.py:Name`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from cycleqd_merge.errors import RecipeError


def find(target: str) -> Any:
    """The class or function that `target` names.

    Raises:
        RecipeError: there is no such module or name, or the module fails when it is imported.
    """
    module_name, _, name = target.rpartition(":")
    found = getattr(_module(module_name), name, None)
    if found is None:
        raise RecipeError(f"target {target}: {module_name} has no {name}")
    return found


def create(target: str, *arguments: Any, methods: tuple[str, ...], **options: Any) -> Any:
    """An instance of the class that `target` names, with the required methods.

    Raises:
        RecipeError: see `find`; or the class rejects its arguments, or lacks a method.
    """
    cls = find(target)
    try:
        instance = cls(*arguments, **options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"target {target}: {error}") from error
    for method in methods:
        if not callable(getattr(instance, method, None)):
            raise RecipeError(f"target {target}: it has no method {method!r}")
    return instance


def _module(name: str) -> ModuleType:
    try:
        return _from_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise RecipeError(f"target {name}: {error}; is it on PYTHONPATH?") from error
    except RecipeError:
        raise
    except Exception as error:  # the user's module may raise anything
        raise RecipeError(f"target {name}: {type(error).__name__}: {error}") from error


def _from_file(path: Path) -> ModuleType:
    # a unique name: the file may have the same name as an imported module
    name = f"cycleqd_target_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise RecipeError(f"target {path}: no such file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look up a class's module there
    spec.loader.exec_module(module)
    return module
