"""Check that models of many architectures go in and come out: evolve, export, reload, rebuild with stock mergekit.

    python benchmarks/architectures.py [--engine transformers|vllm] [--work FOLDER] [NAME ...]

For one tiny random model of each architecture: three children of two experts are evaluated, then the mean of the
experts, the best model and the last child (with mutations) are exported. transformers must load the exports without
missing or unexpected tensors, and give the same logits as the model in the engine after its weights were replaced
(transformers: bit for bit; vLLM: log-probabilities in float32 within 1e-4). The command in an export's
`mergekit_config.yml` must rebuild the same bytes. Prints a table, and exits with 1 if a row is wrong.

With a GPU, the rebuild with `cycleqd-merge merge`, on the CPU, rounds differently: "own command close". vLLM has no
float32 kernels there for latent attention (MLA), which is checked in bfloat16: a new vLLM engine on the exported
checkpoint must give exactly the values of the one whose weights were replaced.

"vLLM itself" in a row: a new vLLM engine on the exported checkpoint gives the same values as the one whose weights were
replaced, but transformers does not.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the tests' models

from mergekit.scripts import run_yaml
from safetensors import safe_open
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from cycleqd_merge import choose, evolve, export
from cycleqd_merge.config.engines import TransformersEngineConfig, VllmEngineConfig
from cycleqd_merge.config.recipe import ModelsConfig
from cycleqd_merge.evaluation.engines.prompts import encode
from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.evaluation.engines.vllm_engine import VllmEngine
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.merging.bases import prepare_bases
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.mergekit_config import STOCK_COMMAND
from cycleqd_merge.merging.mergekit_run import merge_to_disk
from cycleqd_merge.merging.tokenizers import family_tokenizer
from cycleqd_merge.run.opening import reopen_models
from cycleqd_merge.run.state import Run
from tests.architectures import ARCHITECTURES, make_architecture
from tests.models import make_expert, make_recipe

ISSUE = [name for name in ARCHITECTURES if name not in ("gpt_oss", "phi", "bloom", "opt", "glm4")]
EXPORTS = ("mean", "best-mean", "#4")  # the last one is a child with mutations
PROMPTS = ("hello there", "0123456789", "the quick brown fox", "abc")
CLOSE = 1e-4  # of log-probabilities in float32
CLOSE_WEIGHTS = 2e-3  # of a tensor's norm: bfloat16 rounds by up to 4e-3 of a value


class Wrong(Exception):
    """Why a row is wrong."""


@dataclass
class Row:
    """The results of one architecture; steps that were not reached are `-`."""

    name: str
    engine: str
    evolve: str = "-"
    export: str = "-"
    reload: str = "-"
    difference: str = "-"
    mergekit: str = "-"
    problem: str = ""

    def cells(self) -> list[str]:
        return [self.name, self.engine, self.evolve, self.export, self.reload, self.difference, self.mergekit]


class Side(Protocol):
    """An engine under test."""

    def difference(self, materialiser: Materialiser, exports: dict[str, tuple[Candidate, Path]]) -> str:
        """The largest difference between the engine and the exports; raises `Wrong` if it is too large."""
        ...


class TransformersSide:
    """Logits, bit for bit."""

    config: Any = TransformersEngineConfig(kind="transformers")
    dtype = torch.bfloat16
    wide = False

    def difference(self, materialiser: Materialiser, exports: dict[str, tuple[Candidate, Path]]) -> str:
        engine = TransformersEngine(self.config, materialiser)
        most = 0.0
        for name in (*EXPORTS, EXPORTS[0]):  # the first model again, after the other
            candidate, folder = exports[name]
            engine.load(candidate)
            for prompt in PROMPTS:
                tokens = torch.tensor([engine.encode(prompt)])
                with torch.inference_mode():
                    found = engine.model(tokens).logits
                    wanted = _reloaded(folder, materialiser, "auto")(tokens).logits
                most = max(most, float((found.float() - wanted.float()).abs().max()))
        engine.close()
        if most != 0:
            raise Wrong(f"logits differ by {most:g}")
        return "0"


class VllmSide:
    """Log-probabilities of the prompts' own tokens. dtype: of the models and the engines."""

    wide = True

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype, self._close = dtype, CLOSE if dtype == torch.float32 else 0.0
        self._options = {
            "max_model_len": 64,
            "kv_cache_memory_bytes": 50_000_000,
            "enforce_eager": True,
            "dtype": str(dtype).removeprefix("torch."),
        }
        environment = {"VLLM_LOGGING_LEVEL": "ERROR"}
        self.config: Any = VllmEngineConfig(kind="vllm", place="host", options=self._options, environment=environment)

    def difference(self, materialiser: Materialiser, exports: dict[str, tuple[Candidate, Path]]) -> str:
        tokenizer = family_tokenizer(materialiser.family)
        prompts = [encode(tokenizer, prompt) for prompt in PROMPTS]
        engine = VllmEngine(self.config, materialiser)
        found = []
        try:
            for name in (*EXPORTS, EXPORTS[0]):
                engine.load(exports[name][0])
                found.append(asyncio.run(self._scores(engine)))
        finally:
            engine.close()
        folders = [exports[name][1] for name in EXPORTS]
        wanted = [_log_probabilities(_reloaded(folder, materialiser, torch.float32), prompts) for folder in folders]
        most = _distance(found, [*wanted, wanted[0]])
        if most <= self._close:
            return f"{most:.0e}"
        fresh = [self._fresh(folder, prompts, materialiser) for folder in folders]
        exchanged = _distance(found, [*fresh, fresh[0]])
        if exchanged <= self._close:
            return f"{exchanged:.0e} (vLLM itself: {_distance(fresh, wanted):.0e})"
        raise Wrong(f"log-probabilities differ by {exchanged:g} from a new engine on the export")

    async def _scores(self, engine: VllmEngine) -> list[list[float]]:
        return [await engine.logprobs(prompt[:1], prompt[1:]) for prompt in PROMPTS]

    def _fresh(self, folder: Path, prompts: list[list[int]], materialiser: Materialiser) -> list[list[float]]:
        """The log-probabilities of stock vLLM on a checkpoint."""
        from vllm import LLM, SamplingParams

        trust = materialiser.family.models.trust_remote_code
        llm = LLM(str(folder), generation_config="vllm", trust_remote_code=trust, **self._options)
        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
        outputs = [llm.generate([{"prompt_token_ids": each}], params, use_tqdm=False)[0] for each in prompts]
        scores = [
            [output.prompt_logprobs[place][prompt[place]].logprob for place in range(1, len(prompt))]
            for output, prompt in zip(outputs, prompts, strict=True)
        ]
        llm.llm_engine.engine_core.shutdown()
        return scores


def _reloaded(folder: Path, materialiser: Materialiser, dtype: Any) -> Any:
    """An export as its users load it."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        output_loading_info=True,
        trust_remote_code=materialiser.family.models.trust_remote_code,
        # the one implementation that computes everything, such as Gemma 2's capped attention
        **({"attn_implementation": "eager"} if dtype == torch.float32 else {}),
    )
    model, report = loaded
    wrong = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    if wrong:
        raise Wrong(f"missing or unexpected tensors: {', '.join(map(str, wrong[:3]))}")
    return model


def _log_probabilities(model: Any, prompts: list[list[int]]) -> list[list[float]]:
    scores = []
    for prompt in prompts:
        tokens = torch.tensor([prompt])
        with torch.inference_mode():
            rows = torch.log_softmax(model(tokens).logits[0].float(), dim=-1)
        scores.append(rows[:-1].gather(1, tokens[0, 1:, None])[:, 0].tolist())
    return scores


def _distance(found: list[list[list[float]]], wanted: list[list[list[float]]]) -> float:
    """The largest difference of log-probabilities of tokens that both have."""
    pairs = [
        (np.array(one), np.array(other[-len(one) :]))
        for ones, others in zip(found, wanted, strict=True)
        for one, other in zip(ones, others, strict=True)
    ]
    return max(float(np.abs(one - other).max()) for one, other in pairs)


def check(name: str, engine: str, side: Any, folder: Path) -> Row:
    """All steps for one architecture."""
    row = Row(name, engine if side.dtype == torch.float32 or engine == "transformers" else f"{engine} (bfloat16)")
    step = "evolve"
    try:
        base = make_architecture(name, folder / "base", side.dtype, wide=side.wide)
        experts = {each: make_expert(base, folder / each, seed) for each, seed in (("first", 1), ("second", 2))}
        trust = ARCHITECTURES[name].custom_code
        settings = {"evolution": {"generations": 3}, "models": {"trust_remote_code": trust}}
        run = evolve(make_recipe(folder, base, experts, engine=side.config.model_dump(mode="json"), **settings))
        row.evolve, step = "ok", "export"
        for each in EXPORTS:
            export(run, each, folder / each)
        row.export, step = "ok", "reload"
        candidates = {each: choose(run, each).candidate for each in EXPORTS}
        materialiser = _materialiser(run, candidates["mean"])
        for each in EXPORTS:
            _reloaded(folder / each, materialiser, "auto")
        row.reload, step = "ok", "difference"
        exports = {each: (candidates[each], folder / each) for each in EXPORTS}
        row.difference, step = side.difference(materialiser, exports), "mergekit"
        row.mergekit = " / ".join(_rebuilt(folder / each, folder / f"rebuilt-{each}") for each in EXPORTS)
    except (Exception, SystemExit) as error:
        setattr(row, step, "WRONG")
        row.problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if os.environ.get("TRACEBACK"):
            traceback.print_exc()
    return row


def _materialiser(run: Run, candidate: Candidate) -> Materialiser:
    """A materialiser that can build every candidate of a run."""
    opened = reopen_models(run, candidate)
    return Materialiser(opened.family, opened.groups, prepare_bases(opened.family, range(len(run.experts))))


def _rebuilt(export: Path, out: Path) -> str:
    """Run the command at the top of an export's `mergekit_config.yml`."""
    text = (export / "mergekit_config.yml").read_text()
    tolerance = 0.0
    command = text.splitlines()[0].removeprefix("# ").split()
    if command[0] == STOCK_COMMAND.split()[0]:
        run_yaml.main([str(export / "mergekit_config.yml"), str(out), "--quiet", *command[3:]], standalone_mode=False)
        kind = "equal"
    elif command[:2] == ["cycleqd-merge", "merge"]:
        models = ModelsConfig(trust_remote_code="--trust-remote-code" in command)
        merge_to_disk(export / "mergekit_config.yml", out, models=models)
        on_gpu = torch.cuda.is_available()  # the export's SVDs were computed on it
        kind, tolerance = ("own command close", CLOSE_WEIGHTS) if on_gpu else ("own command equal", 0.0)
    else:
        return "not offered"
    _require_same(_tensors(export), _tensors(out), tolerance)
    return kind


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return found


def _require_same(export: dict[str, torch.Tensor], rebuilt: dict[str, torch.Tensor], tolerance: float) -> None:
    """Tied tensors may be in one of them only. tolerance: see `_close`."""
    shared = [name for name in export if name in rebuilt]
    differing = [name for name in shared if not _close(rebuilt[name], export[name], tolerance)]
    missing = sorted(set(export) - set(rebuilt))
    if differing or missing:
        raise Wrong(f"mergekit: {len(differing)} tensors differ, {len(missing)} missing: {(differing + missing)[:2]}")


def _close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> bool:
    """tolerance: norm of the difference, relative to the tensor's own norm; 0: all bits."""
    if tolerance == 0 or found.shape != wanted.shape:
        return torch.equal(found, wanted)
    difference = (found.double() - wanted.double()).norm()
    return bool(difference <= tolerance * wanted.double().norm())


def _side(engine: str, name: str) -> TransformersSide | VllmSide:
    if engine == "transformers":
        return TransformersSide()
    latent = "kv_lora_rank" in ARCHITECTURES[name].options
    return VllmSide(torch.bfloat16 if latent and torch.cuda.is_available() else torch.float32)


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    head = ["architecture", "engine", "evolve", "export", "reload", "max difference", "mergekit (mean / best / child)"]
    lines = [head, ["---"] * len(head), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=ISSUE, metavar="NAME", help="architectures; default: all")
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers")
    parser.add_argument("--work", type=Path, help="folder for models and runs, kept; default: a temporary one")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in ARCHITECTURES]
    if unknown:
        parser.error(f"{unknown[0]}: no such architecture; choose from {', '.join(ARCHITECTURES)}")
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.names:
            folder = (arguments.work or Path(temporary)) / arguments.engine / name
            rows.append(check(name, arguments.engine, _side(arguments.engine, name), folder))
            print(" ".join(rows[-1].cells()), rows[-1].problem, file=sys.stderr, flush=True)
    print(table(rows))
    wrong = [row for row in rows if row.problem]
    for row in wrong:
        print(f"{row.name}: {row.problem}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
