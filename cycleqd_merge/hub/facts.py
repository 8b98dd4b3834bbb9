"""Facts about a run and its models for cards, collected from the journal and the parents' own cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from cycleqd_merge.config.loading import load_task
from cycleqd_merge.config.model_names import hub_id
from cycleqd_merge.config.recipe import task_name
from cycleqd_merge.config.references import without_paths
from cycleqd_merge.config.rows import row_sources
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.hub.parents import Parent, parents_of
from cycleqd_merge.journal.fits import stated_fits
from cycleqd_merge.journal.log import Event, of_kind
from cycleqd_merge.merging.model_cards import License, derived_license
from cycleqd_merge.report.optimism import ChosenMean, chosen_mean
from cycleqd_merge.report.scores import Comparison, ModelScores, compare_best, model_scores, usual_scores
from cycleqd_merge.report.summary import lineage, summary
from cycleqd_merge.run.state import Run
from cycleqd_merge.strategies.factory import ordered_tasks

MAX_ANCESTORS = 12
"""The largest number of ancestors that a card lists."""


@dataclass(frozen=True)
class FitFacts:
    """A fit of a run.

    number: in the order of learning; None if a founder brought it. weights: of its tasks' losses, by task. steps: how
    long it was trained.
    """

    digest: str
    number: int | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    steps: int | None = None


@dataclass(frozen=True)
class CardFacts:
    """Facts about a run for both kinds of cards.

    repo: the card's repository. archive: the dataset repository, if the run's archive is published. datasets: the Hub
    dataset of each task that has one. rows: sizes of the search and confirmation splits by task. leaked: numbers of
    held-out rows that equal search rows, by task, where there are any. summary: see `report.summary.summary`. chosen:
    the mean that chose the best-mean elite. evolution: the settings that are part of the run's identity. fits: all that
    the run has learned or begun with.
    """

    repo: str
    archive: str | None
    objectives: tuple[str, ...]
    tasks: tuple[str, ...]
    datasets: Mapping[str, str]
    rows: Mapping[str, Mapping[str, int]]
    leaked: Mapping[str, int]
    parents: tuple[Parent, ...]
    license: License | None
    scores: tuple[ModelScores, ...]
    summary: Mapping[str, Any]
    chosen: ChosenMean | None
    strategy: str
    evolution: Mapping[str, Any]
    made_by: str
    fits: tuple[FitFacts, ...] = ()

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of all parents."""
        return tuple(dict.fromkeys(language for parent in self.parents for language in parent.languages))

    @property
    def base_models(self) -> tuple[str, ...]:
        """The Hub ids that the run started from."""
        return tuple(dict.fromkeys(name for parent in self.parents for name in parent.ids))


@dataclass(frozen=True)
class ModelFacts:
    """Facts about a model for its card, in addition to those about its run.

    label: its name for `export`. number: of its evaluation, if it was evaluated. coefficients: by expert, one per
    group; empty for a mergekit configuration. seed: of a mergekit configuration; None for a genome. ancestors: see
    `report.summary.lineage`. configuration: the text of its `mergekit_config.yml`. chat: whether it has a chat
    template. adapter: whether it is published as an adapter. end_tokens: as
    its generation configuration states them, if it has one. others: labels of the repository's other models by
    subfolder. subfolder: its own, if it has one. fits: those that it has shares of, each with its shares, one per
    group.
    """

    run: CardFacts
    label: str
    number: int | None
    scores: ModelScores
    comparison: Comparison | None
    coefficients: Mapping[str, tuple[float, ...]]
    groups: tuple[str, ...]
    mutations: int
    seed: int | None
    ancestors: tuple[Mapping[str, Any], ...]
    configuration: str | None
    chat: bool
    adapter: bool
    end_tokens: tuple[int, ...]
    others: Mapping[str, str]
    subfolder: str = ""
    fits: tuple[tuple[FitFacts, tuple[float, ...]], ...] = ()

    @property
    def is_genome(self) -> bool:
        """Whether it is a genome, not a mergekit configuration."""
        return self.seed is None


def fit_facts(events: Sequence[Event]) -> tuple[FitFacts, ...]:
    """Facts about all fits of a run, in the order in which they were learned; those of founders are first."""
    learned = [
        FitFacts(event["digest"], event.get("number"), event.get("weights", {}), event.get("steps"))
        for event in of_kind(events, "fit")
    ]
    own = {fit.digest for fit in learned}
    return (*(FitFacts(digest) for digest in stated_fits(events) if digest not in own), *learned)


def card_facts(
    run: Run, repo: str, archive: str | None = None, license: str | None = None, fits: tuple[FitFacts, ...] = ()
) -> CardFacts:
    """Facts about a run for the card of `repo`. license: the user's choice, see `derived_license`. fits: its fits.

    Raises:
        RecipeError: the parents' licences differ and none was chosen.
        HubFailed: a parent's card cannot be read from the Hub.
    """
    parents = parents_of(run)
    identities = run.start.get("tasks", {})
    return CardFacts(
        repo=repo,
        archive=archive,
        objectives=tuple(run.objectives),
        tasks=tuple(run.tasks),
        datasets=_datasets(run),
        rows={task: identity["rows"] for task, identity in identities.items()},
        leaked=next((session["leaked"] for session in reversed(run.sessions) if "leaked" in session), {}),
        parents=parents,
        license=derived_license({parent.name: parent.license for parent in parents}, license),
        scores=tuple(usual_scores(run)),
        summary=summary(run),
        chosen=chosen_mean(run),
        strategy=run.recipe.strategy.kind,
        evolution=run.start["evolution"],
        made_by=f"cycleqd-merge {version('cycleqd-merge')}",
        fits=fits,
    )


def model_facts(
    card: CardFacts,
    run: Run,
    label: str,
    candidate: Candidate,
    number: int | None = None,
    *,
    configuration: str | None = None,
    chat: bool = False,
    adapter: bool = False,
    end_tokens: tuple[int, ...] = (),
    others: Mapping[str, str] | None = None,
    subfolder: str = "",
) -> ModelFacts:
    """Facts about a candidate with its label and, if it was evaluated, the number of its evaluation."""
    own = model_scores(run, label, candidate, number)
    genome = candidate if isinstance(candidate, Genome) else None
    others_scored = [each for each in card.scores if each.name != label]
    return ModelFacts(
        run=card,
        label=label,
        number=number,
        scores=own,
        comparison=compare_best([*others_scored, own], card.objectives, label),
        coefficients={} if genome is None else _coefficients(genome, run),
        groups=tuple(run.groups),
        mutations=0 if genome is None else len(genome.mutations),
        seed=None if isinstance(candidate, Genome) else candidate.seed,
        ancestors=() if number is None else tuple(lineage(run, number, MAX_ANCESTORS)),
        configuration=None if configuration is None else without_paths(configuration, run.recipe),
        chat=chat,
        adapter=adapter,
        end_tokens=end_tokens,
        others=dict(others or {}),
        subfolder=subfolder,
        fits=() if genome is None else _shares(genome, card),
    )


def _shares(genome: Genome, card: CardFacts) -> tuple[tuple[FitFacts, tuple[float, ...]], ...]:
    """The fits that a genome has shares of, each with its shares, one per group."""
    known = {fit.digest: fit for fit in card.fits}
    shares = map(tuple, genome.fit_shares.tolist())
    return tuple((known.get(d, FitFacts(d)), share) for d, share in zip(genome.fits, shares, strict=True))


def _coefficients(genome: Genome, run: Run) -> dict[str, tuple[float, ...]]:
    """The coefficients of each expert, one per group."""
    return dict(zip(run.experts, map(tuple, genome.coefficients.tolist()), strict=True))


def _datasets(run: Run) -> dict[str, str]:
    """The Hub dataset of each task that has one."""
    found = {}
    for use in ordered_tasks(run.recipe):
        names = [each.dataset for each in row_sources(load_task(use)) if each.dataset is not None]
        if names and hub_id(names[0]) is not None:
            found[task_name(use)] = names[0]
    return found
