"""Task kind `python`: a class that the user wrote."""

from __future__ import annotations

from cycleqd_merge.config import user_code
from cycleqd_merge.config.tasks import PythonTaskConfig
from cycleqd_merge.tasks.protocol import Task


def load_python_task(definition: PythonTaskConfig) -> Task:
    """An instance of the class that `definition.target` names.

    Raises:
        UserError: the module, class or a method is missing, the module fails, or the class rejects the options.
    """
    task: Task = user_code.create(definition.target, methods=("samples", "score"), **definition.options)
    return task
