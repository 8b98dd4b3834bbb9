"""A plan for a terminal: what is loaded, what is searched, what it takes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cycleqd_merge.report.progress import duration
from cycleqd_merge.run.disk import size
from cycleqd_merge.run.plan import ModelFacts, Plan, TaskFacts

_MOST_GROUPS = 12


def plan_report(plan: Plan) -> RenderableType:
    """Everything that a plan found but its faults."""
    parts: list[RenderableType] = [_models(plan.models), _groups(plan), _tasks(plan.tasks), _search(plan), _needs(plan)]
    if plan.notices:
        parts.append(Text("Notices", style="bold"))
        parts.extend(Text(f"- {notice}") for notice in plan.notices)
    return Group(*parts)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _models(models: Sequence[ModelFacts]) -> Table:
    table = _table("Models", "model", "kind", "parameters", "tensors", "dtypes", "size", "from")
    for model in models:
        kind = "full" if model.rank is None else f"LoRA, rank {model.rank}"
        dtypes = ", ".join(model.dtypes)
        table.add_row(
            model.name, kind, f"{model.parameters:,}", str(model.tensors), dtypes, size(model.bytes), model.path
        )
    return table


def _groups(plan: Plan) -> Table:
    table = _table(f"Coefficient groups: {len(plan.groups)}", "group", "tensors")
    for label, tensors in list(plan.groups.items())[:_MOST_GROUPS]:
        table.add_row(label, str(tensors))
    if len(plan.groups) > _MOST_GROUPS:
        table.add_row(f"... {len(plan.groups) - _MOST_GROUPS} more", "")
    return table


def _tasks(tasks: Sequence[TaskFacts]) -> Table:
    table = _table("Tasks: rows", "task", "role", "search", "confirm", "held-out")
    for task in tasks:
        table.add_row(task.name, task.role, str(task.search), str(task.confirm), str(task.heldout))
    return table


def _search(plan: Plan) -> Text:
    return Text("Cells: " + ", ".join(f"{task} {cells:,}" for task, cells in plan.cells.items()))


def _needs(plan: Plan) -> Table:
    table = _table("The run takes", "what", "needs", "there are")
    for disk in plan.disk:
        table.add_row(f"disk, {disk.purpose}", size(disk.needed), f"{size(disk.free)} in {disk.folder}")
    for memory in plan.memory:
        how = "measured" if memory.measured else "at least, not measured"
        table.add_row(f"memory of a worker, {memory.place} ({how})", size(memory.needed), size(memory.available))
    if plan.time is not None:
        time = plan.time
        table.add_row("one evaluation", f"{time.evaluation:.2f} s", f"{time.load:.2f} s of it to build the weights")
        table.add_row("to begin, singular bases", f"{duration(time.setup)}, {duration(time.bases)}", "")
        table.add_row("evaluations", str(time.evaluations), f"workers: {time.workers}; {time.per_hour:.0f} per hour")
        table.add_row("to confirm, to finish", f"{duration(time.confirm)}, {duration(time.finish)}", "")
        table.add_row("the run", duration(time.total), "")
    return table
