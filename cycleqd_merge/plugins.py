"""Types for writing your own tasks, scorers, strategies and observers.

A recipe names a task, scorer or strategy as `{kind: python, target: "my_file.py:Name"}`; an observer is passed to
`evolve`. Everything here is public API; docs/compatibility.md says how it may change.
"""

from cycleqd_merge.errors import DataError, InfrastructureError, TaskError
from cycleqd_merge.evolution.archive import Archive, Elite, Scores
from cycleqd_merge.evolution.candidate import Candidate, MergekitConfiguration
from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.evolution.genome import Genome, Mutation, coefficient_genome, crossover, mutate
from cycleqd_merge.run.observer import Observer
from cycleqd_merge.strategies.protocol import Proposal, Recalling, Result, Strategy
from cycleqd_merge.strategies.space import SearchSpace
from cycleqd_merge.strategies.state import Insertion, SearchState
from cycleqd_merge.tasks.protocol import (
    Checkable,
    Completion,
    Fittable,
    KnownAnswer,
    LanguageModel,
    Likelihood,
    Message,
    NeedsEnvironment,
    Outcome,
    Prompting,
    Referenced,
    Sample,
    Sampling,
    Targets,
    Task,
    TaskSplit,
)

__all__ = [
    "Archive",
    "Candidate",
    "Checkable",
    "Completion",
    "DataError",
    "Elite",
    "Fittable",
    "Genome",
    "InfrastructureError",
    "Insertion",
    "KnownAnswer",
    "LanguageModel",
    "Likelihood",
    "MergekitConfiguration",
    "Message",
    "Mutation",
    "NeedsEnvironment",
    "Observer",
    "Outcome",
    "Prompting",
    "Proposal",
    "Recalling",
    "Referenced",
    "Result",
    "Sample",
    "Sampling",
    "Scores",
    "SearchSpace",
    "SearchState",
    "Strategy",
    "Targets",
    "Task",
    "TaskError",
    "TaskSplit",
    "coefficient_genome",
    "crossover",
    "generator",
    "mutate",
]
