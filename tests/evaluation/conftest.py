"""Tiny models in float32, where padding changes no argmax, an engine for each, and plain transformers to compare."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from cycleqd_merge.config.engines import TransformersEngineConfig
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.evaluation.worker import Worker
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.tasks.suite import open_suite
from tests.models import (
    ARCHITECTURES,
    Architecture,
    make_base,
    make_expert,
    make_recipe,
    make_tokenizer,
    open_recipe_family,
)

# vLLM is an extra that no other test needs: its tests are left out, not skipped, where it is not installed
collect_ignore = (
    []
    if importlib.util.find_spec("vllm")
    else [
        "test_vllm.py",
        "test_vllm_architectures.py",
        "test_vllm_answers.py",
        "test_vllm_union.py",
        "test_likelihood.py",
    ]
)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's engines start faster without processes of their own."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


@dataclass(frozen=True)
class Models:
    """A base with two experts, in folders that no test may write into."""

    base: Path
    first: Path
    second: Path
    family: ModelFamily

    @property
    def materialiser(self) -> Materialiser:
        return Materialiser(self.family, Groups(self.family.weights, "one"), {})

    def engine(self, **options: Any) -> TransformersEngine:
        return TransformersEngine(
            TransformersEngineConfig.model_validate({"device": "cpu", **options}), self.materialiser
        )


def make_models(folder: Path, architecture: Architecture = "llama") -> Models:
    base = make_base(folder / "base", architecture, torch.float32)
    first, second = (make_expert(base, folder / name, seed, scale=0.1) for seed, name in ((1, "first"), (2, "second")))
    return Models(
        base, first, second, open_recipe_family(make_recipe(folder, base, {"first": first, "second": second}))
    )


def genome_of(*coefficients: float) -> Genome:
    """A genome of one group with these coefficients of the experts, without mutations."""
    return Genome(np.array(coefficients)[:, None], (), np.zeros((0, 1)))


BASE = genome_of(0, 0)


class Reference:
    """Plain transformers, one prompt at a time, without padding."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = make_tokenizer()

    def ids(self, prompt: str) -> torch.Tensor:
        return torch.tensor([self.tokenizer(prompt).input_ids])

    def tokens(self, prompt: str, max_new_tokens: int) -> list[int]:
        """The greedy continuation, up to and including the end-of-sequence token."""
        ids = self.ids(prompt)
        output = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
        return list(output[0, ids.shape[1] :].tolist())

    def text(self, prompt: str, max_new_tokens: int) -> str:
        return str(self.tokenizer.decode(self.tokens(prompt, max_new_tokens), skip_special_tokens=True))

    @torch.inference_mode()
    def logprobs(self, prompt: str, continuation: str) -> list[float]:
        """By the definition, in double precision: log of the softmax at the token before.

        Blanks at the prompt's end are the continuation's.
        """
        ids = self.ids(prompt + continuation)
        probabilities = self.model(input_ids=ids).logits[0].double().softmax(dim=-1)
        start = self.ids(prompt.rstrip()).shape[1]
        return [float(probabilities[at - 1, ids[0, at]].log()) for at in range(start, ids.shape[1])]


@pytest.fixture(scope="session", params=ARCHITECTURES)
def every_models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Models:
    return make_models(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def reference(models: Models) -> Reference:
    return Reference(models.base)


@pytest.fixture
def open_engine(models: Models) -> Iterator[Callable[..., TransformersEngine]]:
    """Opens engines for `models` with the given options, and closes them at the end."""
    opened: list[TransformersEngine] = []

    def open_with(**options: Any) -> TransformersEngine:
        opened.append(models.engine(**options))
        return opened[-1]

    yield open_with
    for engine in opened:
        engine.close()


@pytest.fixture
def engine(open_engine: Callable[..., TransformersEngine]) -> TransformersEngine:
    return open_engine()


USER_TASKS = Path(__file__).with_name("user_tasks.py")


def use(name: str, class_name: str, role: str = "optimise", **options: Any) -> dict[str, Any]:
    """A task of a recipe, of one of the classes in user_tasks.py."""
    task = {"kind": "python", "target": f"{USER_TASKS}:{class_name}", "options": options}
    return {"name": name, "task": task, "role": role}


FINE = use("fine", "Scores", scores=[0.5])


@pytest.fixture
def open_worker(models: Models) -> Iterator[Callable[..., Worker]]:
    """Opens a worker for the given tasks and `fine`, without a confirmation split."""
    opened = []

    def open_on(*uses: dict[str, Any]) -> Worker:
        stated = {"base": "b", "experts": {"x": "x", "y": "y"}, "output": "o", "confirm": {"share": 0}}
        recipe = Recipe.model_validate({**stated, "tasks": [*uses, FINE]})
        opened.append(Worker(models.engine(), open_suite(recipe)))
        return opened[-1]

    yield open_on
    for worker in opened:
        worker.close()
