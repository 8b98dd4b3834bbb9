"""The interface of engines: an engine holds one model, replaces its weights by a candidate's, and answers prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.tasks.protocol import Completion, LanguageModel, Sampling

if TYPE_CHECKING:  # the evaluation loop imports this protocol but does not need torch
    from cycleqd_merge.config.engines import EngineConfig
    from cycleqd_merge.merging.materialise import Materialiser

SEMANTICS: dict[str, int] = {"transformers": 2, "vllm": 2}
"""The `semantics` version of each kind of engine: raise it with any change that can alter a score or an export; see
docs/compatibility.md."""


class Engine(LanguageModel, Protocol):
    """A model in memory whose weights are replaced by each candidate's. It starts with the base model's weights."""

    def load(self, candidate: Candidate) -> None:
        """Replace the model's weights by the candidate's.

        Raises:
            ValueError: a tensor of the candidate contains NaN or infinite values; the weights are then undefined
                until the next load.
            EngineLost: the engine had died and cannot be restarted.
        """
        ...

    def prepare(self, candidate: Candidate) -> None:
        """Announce the candidate to load next, so that its weights can be built while the present one is scored.

        Returns at once and may be called from any thread. Engines may ignore it.
        """
        ...

    def write(self, prompt: str, text: str, sampling: Sampling) -> Completion:
        """Record a text as if it were the model's answer to a prompt, for a fit; returns it as `complete` would."""
        ...

    def release(self) -> None:
        """Free the memory of the model and of everything that children are built from, until `restore`.

        No prompt may be waiting. A prepared candidate is forgotten.
        """
        ...

    def restore(self) -> None:
        """Take the memory again, after `release`: the engine then has the base model's weights, as at its start.

        Raises:
            EngineLost: the engine cannot be started again.
        """
        ...

    def close(self) -> None:
        """Free the engine's memory."""
        ...


def open_engine(
    config: EngineConfig, materialiser: Materialiser, workers_per_host: int = 1, releasable: bool = False
) -> Engine:
    """The engine that a recipe asks for, for the materialiser's model family.

    workers_per_host: workers on this host, each with an engine, this one included. releasable: whether `release` will
    be called; it is faster then, at some cost in speed.

    Raises:
        UserError: it cannot be started as the recipe asks.
        EngineLost: it cannot be started for any other reason.
    """
    if config.kind == "vllm":
        from cycleqd_merge.evaluation.engines.vllm_engine import VllmEngine

        return VllmEngine(config, materialiser, workers_per_host, releasable)
    from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine

    return TransformersEngine(config, materialiser)
