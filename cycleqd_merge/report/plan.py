"""A plan for a terminal: models, groups, tasks, archives, and the resources and time that the run requires."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from cycleqd_merge.preflight.plan_result import BasesSummary, FitSummary, ModelSummary, Plan, TaskSummary, TimeEstimate
from cycleqd_merge.report.progress import duration

_MAX_GROUPS = 12


def plan_report(plan: Plan) -> RenderableType:
    """Everything in a plan except its errors."""
    parts: list[RenderableType] = [_models(plan.models), _groups(plan), _tasks(plan.tasks), _search(plan)]
    if plan.bases:
        parts.append(_bases(plan.bases))
    if plan.similarity:
        pairs = (f"{pair} {value:.3f}" for pair, value in plan.similarity.items())
        parts.append(Text("Model similarity (cosine of singular values): " + "; ".join(pairs)))
    if plan.fit is not None:
        parts.append(_fits(plan.fit))
    parts.append(_resources(plan))
    if plan.time is not None:
        parts.append(_time(plan.time))
    if plan.notices:
        parts.append(Text("Notices", style="bold"))
        parts.extend(Text(f"- {notice}") for notice in plan.notices)
    return Group(*parts)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _models(models: Sequence[ModelSummary]) -> Table:
    table = _table("Models", "model", "kind", "parameters", "tensors", "dtypes", "size", "from")
    for model in models:
        kind = "full" if model.rank is None else f"LoRA, rank {model.rank}"
        dtypes = ", ".join(model.dtypes)
        table.add_row(
            model.name, kind, f"{model.parameters:,}", str(model.tensors), dtypes, decimal(model.bytes), model.path
        )
    return table


def _groups(plan: Plan) -> Table:
    table = _table(f"Coefficient groups: {len(plan.groups)}", "group", "tensors")
    for label, tensors in list(plan.groups.items())[:_MAX_GROUPS]:
        table.add_row(label, str(tensors))
    if len(plan.groups) > _MAX_GROUPS:
        table.add_row(f"... {len(plan.groups) - _MAX_GROUPS} more", "")
    return table


def _tasks(tasks: Sequence[TaskSummary]) -> Table:
    table = _table("Tasks: rows per split", "task", "role", "search", "confirmation", "held-out", "environment")
    for task in tasks:
        counts = (task.search, task.confirm, task.heldout)
        role = task.role if task.floor is None else f"{task.role}, at least {task.floor:g}"
        table.add_row(task.name, role, *map(str, counts), task.environment)
    return table


def _search(plan: Plan) -> Text:
    if plan.capacity is not None:
        return Text(f"Archives: dominated novelty, up to {plan.capacity} elites each")
    return Text("Cells: " + ", ".join(f"{task} {cells:,}" for task, cells in plan.cells.items()))


def _bases(bases: Sequence[BasesSummary]) -> Table:
    headings = ("expert", "directions", "norm lost by truncation", "deviation of V^T V from I")
    table = _table("Singular bases, stored in float32", *headings)
    for each in bases:
        table.add_row(each.name, f"{each.directions:,}", f"{each.loss:.2%}", f"{each.skew:.1e}")
    return table


def _fits(fit: FitSummary) -> Text:
    tokens = "" if fit.tokens is None else f", about {fit.tokens:,} tokens"
    lines = [f"Fits: {fit.fits}, on {', '.join(fit.tasks)}; {fit.steps} steps together{tokens}"]
    if fit.left_out:
        lines.append("Left out of the fits: " + "; ".join(f"{task} ({why})" for task, why in fit.left_out.items()))
    return Text("\n".join(lines))


def _resources(plan: Plan) -> Table:
    table = _table("Disk and memory", "resource", "required", "available")
    for disk in plan.disk:
        table.add_row(f"disk, {disk.purpose}", decimal(disk.needed), f"{decimal(disk.free)} in {disk.folder}")
    for memory in plan.memory:
        how = "measured" if memory.measured else "lower bound, not measured"
        table.add_row(f"memory of a worker, {memory.place} ({how})", decimal(memory.needed), decimal(memory.available))
    return table


def _time(time: TimeEstimate) -> Table:
    table = _table("Time", "step", "estimate", "details")
    table.add_row("one evaluation", f"{time.evaluation:.2f} s", f"{time.load:.2f} s of it to build the weights")
    table.add_row("set-up", duration(time.setup), "")
    table.add_row("singular bases", duration(time.bases), "")
    if time.fits:
        table.add_row("fits", duration(time.fits), "learned once the experts are scored")
    rate = f"{time.per_hour:.0f} evaluations per hour"
    table.add_row("search", f"{time.evaluations} evaluations", f"workers: {time.workers}; {rate}")
    table.add_row("confirmation", duration(time.confirm), "")
    table.add_row("exports and held-out scores", duration(time.finish), "")
    table.add_row("the run", duration(time.total), "")
    return table
