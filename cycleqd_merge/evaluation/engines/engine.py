"""What evaluates: an engine holds one model, takes a candidate's weights in place, and answers prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cycleqd_merge.config.engines import EngineConfig as EngineOptions
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.tasks.protocol import LanguageModel

if TYPE_CHECKING:  # the loop knows engines by this protocol, and needs no torch for it
    from cycleqd_merge.merging.materialise import Materialiser


class Engine(LanguageModel, Protocol):
    """A resident model whose weights are exchanged between candidates. It starts with the base model's weights."""

    def load(self, candidate: Candidate) -> None:
        """Make the resident model the candidate's.

        Raises:
            ValueError: a tensor of the candidate holds NaN or infinite values; the weights are then undefined
                until the next load.
        """
        ...

    def prepare(self, candidate: Candidate) -> None:
        """Say which candidate will be loaded next, so that its weights can be built beside what is answered meanwhile.

        Returns at once, may be called from any thread, and may be left without effect.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...


def open_engine(options: EngineOptions, materialiser: Materialiser, neighbours: int = 1) -> Engine:
    """The engine that a recipe asks for, over the materialiser's family. neighbours: engines on this host.

    Raises:
        UserError: it cannot be started.
    """
    if options.kind == "vllm":
        from cycleqd_merge.evaluation.engines.vllm_engine import VllmEngine

        return VllmEngine(options, materialiser, neighbours)
    from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine

    return TransformersEngine(options, materialiser)
