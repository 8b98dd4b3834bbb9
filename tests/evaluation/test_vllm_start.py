"""The engine on vLLM, if it cannot be started: with a stand-in for vLLM, which this needs not to be installed."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from cycleqd_merge.config.engines import VllmEngineConfig
from cycleqd_merge.errors import InfrastructureError, ModelError, RecipeError
from cycleqd_merge.evaluation.engines import vllm_compat
from cycleqd_merge.evaluation.engines.vllm_engine import VllmEngine
from cycleqd_merge.evaluation.failures import EngineLost
from cycleqd_merge.evaluation.pools.pool import evaluate_proposal
from cycleqd_merge.evaluation.worker import Worker
from cycleqd_merge.merging.staging import Staging
from cycleqd_merge.strategies.protocol import Proposal
from tests.evaluation.conftest import BASE, Models

CONFIG = VllmEngineConfig(kind="vllm", place="host", options={"kv_cache_memory_bytes": 50_000_000})
DEAD = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")


class StubVllm:
    """A stand-in for vLLM. start, rpc: the errors of the next starts and calls, in order; None for none.

    unused: tensors that a rehearsal leaves out. drift: difference of log-probabilities from one answer to the next.
    """

    def __init__(self) -> None:
        self.start: list[Exception | None] = []
        self.rpc: dict[str, list[Exception | None]] = {}
        self.running = 0
        self.unused: list[str] = []
        self.drift = self.logprob = 0.0
        self.calls: list[str] = []
        self.options: dict[str, Any] = {}

    def llm(self, **options: Any) -> Any:
        """As `vllm.LLM`."""
        self.options = options
        self.calls.append("start")
        self._fail(self.start)
        self.running += 1
        config = SimpleNamespace(try_get_generation_config=lambda: {"eos_token_id": 2}, max_model_len=64)
        engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=self._stop), model_config=config)
        return SimpleNamespace(
            llm_engine=engine,
            collective_rpc=self._call,
            generate=self._generate,
            reset_prefix_cache=lambda: self._call("reset_prefix_cache"),
            sleep=lambda level: self._call(f"sleep {level}"),
            wake_up=lambda: self._call("wake_up"),
        )

    def _call(self, name: str, args: Any = ()) -> list[Any]:
        self.calls.append(name)
        self._fail(self.rpc.get(name, []))
        return [self.unused if name == "cycleqd_rehearse" else None]

    def _generate(self, prompts: list[dict[str, list[int]]], params: Any, use_tqdm: bool) -> list[Any]:
        self._fail(self.rpc.get("generate", []))
        self.logprob -= self.drift
        tokens = prompts[0]["prompt_token_ids"]
        return [SimpleNamespace(prompt_logprobs=[{token: SimpleNamespace(logprob=self.logprob)} for token in tokens])]

    def _stop(self) -> None:
        self.calls.append("stop")
        self.running -= 1

    def _fail(self, errors: list[Exception | None]) -> None:
        if errors and (error := errors.pop(0)) is not None:
            raise error


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> StubVllm:
    stub = StubVllm()
    monkeypatch.setattr(vllm_compat, "gpu_memory", lambda: None)
    monkeypatch.setattr(vllm_compat, "unsupported", lambda llm: None)
    modules = {"vllm": {"LLM": stub.llm, "SamplingParams": SimpleNamespace}, "vllm.exceptions": {}}
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["vllm"].exceptions = sys.modules["vllm.exceptions"]  # type: ignore[attr-defined]
    return stub


def test_options_that_vllm_rejects_are_an_error_of_the_recipe(vllm: StubVllm, models: Models) -> None:
    vllm.start = [ValueError("max_model_len is too large")]
    with pytest.raises(RecipeError, match="engine vllm: max_model_len is too large"):
        VllmEngine(CONFIG, models.materialiser)


def test_an_engine_that_does_not_start_is_a_failure_of_the_infrastructure(vllm: StubVllm, models: Models) -> None:
    vllm.start = [DEAD]
    with pytest.raises(EngineLost, match="engine vllm: cannot be started: Engine core initialization failed"):
        VllmEngine(CONFIG, models.materialiser)


@pytest.mark.parametrize("error", [RuntimeError("no room"), ValueError("no room"), OSError("no room")])
@pytest.mark.parametrize("call", ["cycleqd_open", "generate", "cycleqd_rehearse", "reset_prefix_cache"])
def test_an_engine_whose_models_cannot_be_opened_is_closed(
    vllm: StubVllm, models: Models, call: str, error: Exception
) -> None:
    vllm.rpc = {call: [error]}
    with pytest.raises(EngineLost, match="engine vllm: cannot be started: no room"):
        VllmEngine(CONFIG, models.materialiser)
    assert vllm.running == 0


def test_an_engine_that_cannot_run_the_model_is_closed(
    vllm: StubVllm, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_compat, "unsupported", lambda llm: "no kernel")
    with pytest.raises(ModelError, match=r"^engine vllm: no kernel; use `engine: \{kind: transformers\}`$"):
        VllmEngine(CONFIG, models.materialiser)
    assert vllm.running == 0


@pytest.mark.parametrize(
    ("unused", "drift", "expected"),
    [
        (["b.bias"], 0.0, "vLLM's LlamaForCausalLM does not use tensor b.bias; use"),
        (["b.bias", "a.bias"], 0.0, r"does not use tensor a.bias \(and 1 more\); use"),
        ([], 1.0, "cannot exchange the weights of LlamaForCausalLM: it answers differently"),
        ([], float("nan"), "it answers differently"),
    ],
)
def test_an_engine_that_fails_the_rehearsal_is_closed(
    vllm: StubVllm, models: Models, unused: list[str], drift: float, expected: str
) -> None:
    vllm.unused, vllm.drift = unused, drift
    with pytest.raises(ModelError, match=f"^engine vllm: .*{expected}"):
        VllmEngine(CONFIG, models.materialiser)
    assert vllm.running == 0


def test_an_engine_that_rounds_differently_is_used(vllm: StubVllm, models: Models) -> None:
    vllm.drift = 0.01
    VllmEngine(CONFIG, models.materialiser).close()


@pytest.mark.parametrize("restart", ["start", "open"])
def test_an_engine_that_cannot_be_restarted_says_nothing_about_the_child(
    vllm: StubVllm, models: Models, restart: str
) -> None:
    engine = VllmEngine(CONFIG, models.materialiser)
    vllm.rpc = {"cycleqd_load": [RuntimeError("the engine died")]}
    (vllm.start if restart == "start" else vllm.rpc.setdefault("cycleqd_open", [])).append(DEAD)
    worker = Worker(engine, [])  # type: ignore[arg-type]
    with pytest.raises(InfrastructureError, match="cannot be started"):
        evaluate_proposal(worker, Proposal(7, BASE, {}), "search", None)
    assert vllm.running == 0


def test_a_child_that_kills_every_engine_is_recorded(vllm: StubVllm, models: Models) -> None:
    engine = VllmEngine(CONFIG, models.materialiser)
    vllm.rpc = {"cycleqd_load": [RuntimeError("the engine died")] * 2}
    finished = evaluate_proposal(Worker(engine, []), Proposal(7, BASE, {}), "search", None)  # type: ignore[arg-type]
    assert (finished.evaluation, finished.error) == (None, "RuntimeError: the engine died")
    assert vllm.running == 0


OPENED = ["start", "cycleqd_open", "cycleqd_rehearse", "reset_prefix_cache"]
ASLEEP, AWAKE = ["cycleqd_release", "sleep 2"], ["wake_up", "cycleqd_rehearse", "reset_prefix_cache"]


@pytest.mark.parametrize(
    ("sleeps", "problem", "expected"),
    [
        (True, None, [*ASLEEP, *AWAKE]),
        (True, "cycleqd_release", ["cycleqd_release", "stop", *OPENED]),
        (True, "wake_up", [*ASLEEP, "wake_up", "stop", *OPENED]),
        (False, None, ["stop", *OPENED]),
    ],
)
def test_an_engine_sleeps_where_it_can_and_is_reopened_where_it_cannot(
    vllm: StubVllm,
    models: Models,
    monkeypatch: pytest.MonkeyPatch,
    sleeps: bool,
    problem: str | None,
    expected: list[str],
) -> None:
    monkeypatch.setattr(vllm_compat, "can_sleep", lambda: sleeps)
    engine = VllmEngine(CONFIG, models.materialiser, releasable=True)
    assert vllm.options.get("enable_sleep_mode", False) is sleeps
    vllm.calls.clear()
    vllm.rpc = {} if problem is None else {problem: [RuntimeError("no room")]}
    engine.release()
    engine.restore()
    assert vllm.calls == expected
    assert vllm.running == 1
    engine.close()


def test_an_engine_that_answers_differently_after_its_sleep_is_reopened(
    vllm: StubVllm, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_compat, "can_sleep", lambda: True)
    engine = VllmEngine(CONFIG, models.materialiser, releasable=True)
    vllm.calls.clear()
    engine.release()
    vllm.logprob -= 1.0
    engine.restore()
    assert vllm.calls == [*ASLEEP, *AWAKE, "stop", *OPENED]
    engine.close()


def test_only_engines_that_are_released_pay_for_it(
    vllm: StubVllm, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_compat, "can_sleep", lambda: True)
    VllmEngine(CONFIG, models.materialiser).close()
    assert "enable_sleep_mode" not in vllm.options


def test_what_is_kept_on_the_device_is_dropped_and_read_again(models: Models) -> None:
    staging = Staging(models.family, {}, "cpu", "device")
    weight = models.family.weights[0]
    before = staging.base(weight)
    assert staging.base(weight) is before
    staging.forget()
    assert not staging._kept
    assert torch.equal(staging.base(weight), before)
