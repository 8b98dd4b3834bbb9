"""Cards of published models and archives: front matter for the Hub's search, and a page for readers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from cycleqd_merge.hub.archive import ELITES, GENERATIONS
from cycleqd_merge.hub.facts import CardFacts, FitFacts, ModelFacts
from cycleqd_merge.hub.markdown import cell, code, fenced, sentence
from cycleqd_merge.journal.measured import Estimate
from cycleqd_merge.merging.fit_files import MODEL_FITS
from cycleqd_merge.merging.rebuild_command import rebuild_command
from cycleqd_merge.report.scores import ModelScores, ScoreTable

TAGS = ["mergekit", "merge", "cycleqd"]
FIGURE = "archives.png"
"""The file of a model card's figure: `report.figures.archives_figure` with the model marked."""
_LONGEST_LINE = 2000


def model_card(facts: ModelFacts) -> ModelCard:
    """The card of a published model, without any request to the Hub."""
    run = facts.run
    front = ModelCardData(
        base_model=list(run.base_models) or None,
        library_name="peft" if facts.adapter else "transformers",
        pipeline_tag="text-generation",
        language=list(run.languages) or None,
        tags=TAGS,
        model_name=_name(run.repo, facts.subfolder),
        eval_results=[*_results(facts, "heldout"), *_results(facts, "search")] or None,
        **_relation(run),
        **_license(run),
    )
    scored = [*(each for each in run.scores if each.name != facts.label), facts.scores]
    configuration = facts.configuration or ""
    body = _render(
        "model.md.jinja",
        run,
        scored,
        facts.label,
        name=_name(run.repo, facts.subfolder),
        facts=facts,
        figure=FIGURE,
        one_group=len(facts.groups) == 1,
        marked=any(
            elite["evaluation"] == facts.number
            for archive in run.summary["archives"].values()
            for elite in archive["elites"]
        ),
        configuration=_shortened(configuration),
        command=rebuild_command(configuration),
        truncated=max((estimate.truncated for estimate in facts.scores.heldout.values()), default=0.0),
    )
    return ModelCard(f"---\n{front.to_yaml()}\n---\n\n{body}")


def archive_card(facts: CardFacts) -> DatasetCard:
    """The card of a published archive; its front matter names the tables for the Hub's dataset viewer."""
    tables = {"elites": ELITES, "generations": GENERATIONS}
    configs = [{"config_name": name, "data_files": path} for name, path in tables.items()]
    configs[0] = {**configs[0], "default": True}  # type: ignore[dict-item]
    front = DatasetCardData(
        pretty_name=_name(facts.repo),
        tags=TAGS,
        language=list(facts.languages) or None,
        configs=configs,
        **_license(facts),
    )
    body = _render("archive.md.jinja", facts, facts.scores, "best-mean", name=_name(facts.repo))
    return DatasetCard(f"---\n{front.to_yaml()}\n---\n\n{body}")


def _name(repo: str, subfolder: str = "") -> str:
    return "/".join(filter(None, (repo.rpartition("/")[2], subfolder)))


def _relation(run: CardFacts) -> dict[str, Any]:
    return {"base_model_relation": "merge"} if run.base_models else {}


def _license(run: CardFacts) -> dict[str, Any]:
    if run.license is None:
        return {}
    stated = {"license": run.license.id, "license_name": run.license.name, "license_link": run.license.link}
    return {key: value for key, value in stated.items() if value is not None}


_SPLITS = {
    "heldout": "held-out split, never seen by the search",
    "search": "search split, maximised by the search",
}


def _results(facts: ModelFacts, split: str) -> list[EvalResult]:
    """The model's scores on one split, for the model index."""
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=facts.run.datasets.get(task, task),
            dataset_name=f"{task} ({_SPLITS[split]})",
            dataset_split=split,
            metric_type="score",
            metric_name=f"mean score on the {_SPLITS[split]}",
            metric_value=round(estimate.score, 6),
            metric_args={"samples": estimate.samples} | _error(estimate),
        )
        for task, estimate in getattr(facts.scores, split).items()
    ]


def _error(estimate: Estimate) -> dict[str, float]:
    return {} if estimate.error is None else {"standard_error": round(estimate.error, 6)}


def _render(template: str, run: CardFacts, scored: Sequence[ModelScores], own: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("cycleqd_merge.hub", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "average": _average,
        "cell": cell,
        "code": code,
        "fenced": fenced,
        "fit_shares": _fit_shares,
        "fit_table": _fit_table,
        "origin": _origin,
        "mutation": _mutation,
        "sentence": sentence,
    }
    text = environment.get_template(template).render(
        run=run,
        base=run.parents[0],
        experts=run.parents[1:],
        heldout=_table(scored, run, "heldout", own),
        search=_table(scored, run, "search", own),
        search_rows=_counts(run, "search"),
        confirmation_rows=_counts(run, "confirm"),
        leaked=", ".join(f"{task}: {count}" for task, count in run.leaked.items()),
        local=any("./models/" in parent.reference for parent in run.parents),
        unlicensed=[parent.name for parent in run.parents if parent.license is None],
        fits_folder=MODEL_FITS,
        citation=environment.get_template("citation.md").render(),
        **values,
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _table(scored: Sequence[ModelScores], run: CardFacts, split: str, own: str) -> str:
    """A Markdown table of models by tasks, with the card's own model in bold; empty if nothing was scored."""
    table = ScoreTable.of({model.name: getattr(model, split) for model in scored}, run.tasks, run.objectives)
    if not table.rows:
        return ""
    headings = (f"{cell(task)} ({_range(table.samples(place))})" for place, task in enumerate(table.tasks))
    lines = [f"| model | {' | '.join(headings)} | mean |", f"|---|{'---:|' * (len(table.tasks) + 1)}"]
    for row in table.rows:
        bold = "**" if row.model == own else ""
        lines.append(f"| {bold}{cell(row.model)}{bold} | {' | '.join(map(_estimate, (*row.tasks, row.mean)))} |")
    return "\n".join(lines)


def _range(counts: Iterable[int]) -> str:
    """The number of rows that a column's scores are measured on."""
    return "n = " + " to ".join(map(str, sorted({min(counts), max(counts)}))) if (counts := set(counts)) else "n = 0"


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate.score:.3f}" if estimate.error is None else f"{estimate.score:.3f} ± {estimate.error:.3f}"


def _counts(run: CardFacts, split: str) -> str:
    """The number of a split's rows by task, as `sql 40, bash 40`; empty if it has none."""
    return ", ".join(f"{task} {counts[split]}" for task, counts in run.rows.items() if counts.get(split))


def _fit_table(fits: Sequence[FitFacts]) -> str:
    """A Markdown table of the run's fits."""
    rows = [f"| {_fit_name(fit)} | {_weights(fit)} | {'-' if fit.steps is None else fit.steps} |" for fit in fits]
    return "\n".join(["| fit | tasks and their weights | steps |", "|---|---|---:|", *rows])


def _fit_shares(fits: Sequence[tuple[FitFacts, Sequence[float]]], groups: Sequence[str]) -> str:
    """A Markdown table of a model's fits and their shares, by group of tensors."""
    headings = ["share"] if len(groups) == 1 else [cell(group) for group in groups]
    lines = [f"| fit | tasks and their weights | {' | '.join(headings)} |", f"|---|---|{'---:|' * len(groups)}"]
    for fit, shares in fits:
        lines.append(f"| {_fit_name(fit)} | {_weights(fit)} | {' | '.join(f'{share:.4f}' for share in shares)} |")
    return "\n".join(lines)


def _fit_name(fit: FitFacts) -> str:
    return f"`{fit.digest[:12]}`" if fit.number is None else f"{fit.number + 1}: `{fit.digest[:12]}`"


def _weights(fit: FitFacts) -> str:
    """The tasks that a fit was learned on, with the weights of their losses."""
    return ", ".join(f"{cell(task)} {weight:g}" for task, weight in fit.weights.items()) or "of a founder"


def _origin(step: Mapping[str, Any], experts: Sequence[Any]) -> str:
    """An evaluation's parents, or the founder that it is."""
    if "expert" in step:
        return f"expert {cell(experts[step['expert']].name)}"
    if "seed" in step:
        return f"founder {step['seed']}"
    if "fit" in step:
        return f"fit {step['fit'] + 1}"
    if "level" in step:
        return f"{step['level']:g} of every expert"
    return ", ".join(f"#{parent}" for parent in step.get("parents", [])) or "-"


def _mutation(step: Mapping[str, Any], experts: Sequence[Any]) -> str:
    mutation = step.get("mutation")
    if mutation is None:
        return "-"
    along = f" along {cell(experts[mutation['expert']].name)}" if "expert" in mutation else ""
    along = " along the child" if mutation.get("of") == "child" else along
    return f"{mutation['kind']}{along}"


def _average(scores: Sequence[float] | None, counted: int) -> str:
    return "failed" if scores is None else f"{sum(scores[:counted]) / counted:.3f}"


def _shortened(configuration: str) -> str:
    """A configuration with its very long lines, such as those of mutations, cut."""
    lines = []
    for line in configuration.splitlines():
        cut = len(line) > _LONGEST_LINE
        lines.append(f"{line[:200]} ... # {len(line):,} characters; see mergekit_config.yml" if cut else line)
    return "\n".join(lines)
