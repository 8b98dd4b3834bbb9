"""Task kind `python`: the user's own class."""

from __future__ import annotations

from cycleqd_merge.config import user_code
from cycleqd_merge.config.tasks import PythonTaskConfig
from cycleqd_merge.tasks.protocol import Task


def load_python_task(definition: PythonTaskConfig) -> Task:
    """An instance of the class that `definition.target` names.

    Raises:
        UserError: there is no such module, class or method, the module fails, or the class refuses the options.
    """
    task: Task = user_code.create(definition.target, methods=("samples", "score"), **definition.options)
    return task
