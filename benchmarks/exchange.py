"""Time to build a child and load it into a running vLLM engine, at the shape of Llama-3 8B, compared with the minimum.

Base, experts and singular bases are random and made in memory: no network, no checkpoint. On one GPU:

    python benchmarks/exchange.py --place host      # experts in pinned host memory (needs about 100 GB of it)
    python benchmarks/exchange.py --place device    # experts in GPU memory (needs about 130 GB of it)
    python benchmarks/exchange.py --layers 2 --no-engine --place host   # a small model, to try the script

The minimum is the time to move the bytes, at the measured rate of a copy, plus that of the matrix products, at the
measured rate of a product with bfloat16 inputs and float32 accumulation.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from cycleqd_merge.evaluation.engines.vllm_extension import WorkerExtension
from cycleqd_merge.evolution.genome import Genome, Mutation, expert_genome, mutate
from cycleqd_merge.merging.checkpoint import Weight
from cycleqd_merge.merging.family import Whole
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.singular import Basis, singular_basis

HIDDEN, INNER, KEYS, VOCABULARY, EXPERTS = 4096, 14336, 1024, 128256, 3


def weights(layers: int) -> tuple[Weight, ...]:
    """The tensors of a Llama-3 8B with `layers` layers."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(layers):
        inside = {
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (KEYS, HIDDEN),
            "self_attn.v_proj": (KEYS, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (INNER, HIDDEN),
            "mlp.up_proj": (INNER, HIDDEN),
            "mlp.down_proj": (HIDDEN, INNER),
            "input_layernorm": (HIDDEN,),
            "post_attention_layernorm": (HIDDEN,),
        }
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in inside.items()}
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}
    return tuple(Weight(name, shape, torch.bfloat16) for name, shape in shapes.items())


class RandomFamily:
    """Replaces a `ModelFamily`: random tensors, made and provided on the GPU."""

    def __init__(self, layers: int, device: str) -> None:
        self.weights, self._device = weights(layers), device
        self.experts = [f"expert {number}" for number in range(EXPERTS)]

    def _random(self, seed: int, shape: tuple[int, ...], scale: float) -> torch.Tensor:
        generator = torch.Generator(self._device).manual_seed(seed)
        return (torch.randn(shape, generator=generator, device=self._device) * scale).to(torch.bfloat16)

    def base_tensor(self, weight: Weight) -> torch.Tensor:
        """See `ModelFamily`."""
        if len(weight.shape) == 1:
            return torch.ones(weight.shape, dtype=weight.dtype, device=self._device)
        return self._random(hash(weight.name) % 2**31, weight.shape, 0.02)

    def difference(self, expert: int, weight: Weight, base: torch.Tensor) -> Whole:
        """See `ModelFamily`."""
        return Whole(base + self._random(hash((expert, weight.name)) % 2**31, weight.shape, 0.001))


class RandomBases:
    """Replaces `ExpertBases`: orthonormal vectors of the right shape, shared by tensors of the same shape."""

    def __init__(self, family: RandomFamily, device: str) -> None:
        self._sides = {w.name: min(w.shape[0], w.shape[1]) for w in family.weights if len(w.shape) == 2}
        self._tall = {w.name: w.shape[0] >= w.shape[1] for w in family.weights if len(w.shape) == 2}
        self._device = device
        self.ranks, self.rank = dict(self._sides), None

    @cache  # noqa: B019 - lives as long as the benchmark
    def _vectors(self, size: int) -> torch.Tensor:
        return torch.linalg.qr(torch.randn(size, size, device=self._device))[0]

    def load(self, name: str) -> Basis | None:
        """See `ExpertBases`."""
        size = self._sides[name]
        side = "right" if self._tall[name] else "left"
        return Basis(self._vectors(size), torch.ones(size, device=self._device), side)


def materialiser(layers: int, device: str, place: str) -> Materialiser:
    """A materialiser for random models."""
    family: Any = RandomFamily(layers, device)
    bases: Any = dict.fromkeys(range(EXPERTS), RandomBases(family, device))
    return Materialiser(family, Groups(family.weights, "one"), bases, device, place)


def children(count: int, mutated: int) -> list[Genome]:
    """Genomes of three experts with eight mutations along `mutated` of them; all but one are shared, as in a run."""
    genomes = []
    for number in range(count):
        genome = Genome(expert_genome(0, EXPERTS, 1).coefficients * 0 + 0.4, (), expert_genome(0, EXPERTS, 1).shares)
        for expert in range(mutated):
            for event in range(8):
                seed = 10 * expert + event + (1000 * number if event == 0 else 0)
                genome = mutate(genome, Mutation("svd", expert, seed, 0.3))
        genomes.append(genome)
    return genomes


class BenchmarkExtension(WorkerExtension):
    """The extension of the real engine, with random models made in its own process."""

    def cycleqd_random(self, layers: int, place: str) -> None:
        """Make the models; see `materialiser`."""
        self.cycleqd_use(materialiser(layers, "cuda", place), "device")

    def cycleqd_timed(self, record: dict[str, Any], prepared: bool = False) -> float:
        """Seconds of one load; with `prepared`, of a child that was prefetched."""
        if prepared:
            self.cycleqd_prepare(record)
            time.sleep(6.0)
        torch.cuda.synchronize()
        start = time.perf_counter()
        problem = self.cycleqd_load(record)
        torch.cuda.synchronize()
        if problem is not None:
            raise RuntimeError(problem)
        return time.perf_counter() - start

    def cycleqd_ways(self, record: dict[str, Any]) -> dict[str, float]:
        """Seconds to load tensors that are already built: by the model itself, and by vLLM's reload."""
        ready = list(self._build(record))
        model = self.model_runner.get_model()
        ways = {
            "model.load_weights": lambda: model.load_weights(iter(ready)),
            "reload_weights": lambda: self.model_runner.reload_weights(weights_iterator=iter(ready)),
        }
        with torch.inference_mode():
            return {name: timed(way) for name, way in ways.items()}


def timed(work: Callable[[], Any], times: int = 3) -> float:
    """The shortest time of several runs, after one to warm up."""
    work()
    seconds = []
    for _ in range(times):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def rates() -> dict[str, float]:
    """Measured rates: host to device and device to device in bytes/s, matrix products in FLOP/s."""
    host = torch.empty(2**30, dtype=torch.uint8).pin_memory()
    device = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(device)
    a = torch.randn(8192, 4096, device="cuda").to(torch.bfloat16)
    b = torch.randn(4096, 4096, device="cuda").to(torch.bfloat16)
    product = timed(lambda: [torch.mm(a, b, out_dtype=torch.float32) for _ in range(20)]) / 20
    return {
        "host": 2**30 / timed(lambda: device.copy_(host, non_blocking=True)),
        "device": 2 * 2**30 / timed(lambda: other.copy_(device)),
        "flops": 2 * 8192 * 4096 * 4096 / product,
    }


def minimum(layers: int, mutated: int, place: str, measured: dict[str, float]) -> dict[str, float]:
    """The minimum time to move the bytes and multiply the matrices."""
    parameters = sum(torch.Size(w.shape).numel() for w in weights(layers))
    matrices = [w.shape for w in weights(layers) if len(w.shape) == 2]
    sides = sum(min(shape) ** 2 for shape in matrices)
    moved = 2 * parameters * (1 + EXPERTS) + 2 * sides * mutated
    flops = mutated * sum(4 * shape[0] * shape[1] * min(shape) for shape in matrices)
    written = 2 * parameters
    moving = moved / measured["host"] if place == "host" else moved / measured["device"]
    moving += written / measured["device"]
    return {"moving": moving, "products": flops / measured["flops"], "minimum": moving + flops / measured["flops"]}


def bases_of(rows: int, columns: int) -> dict[str, float]:
    """Seconds to compute one basis of this shape: from a float64 Gram matrix, as we do, and from float32 SVDs."""
    tau = torch.randn(rows, columns, device="cuda")
    found = {"gram": timed(lambda: singular_basis(tau), 2)}
    for driver in ("gesvda", "gesvdj"):
        found[driver] = timed(lambda driver=driver: torch.linalg.svd(tau, full_matrices=False, driver=driver), 1)
    return found


def published(layers: int) -> dict[str, float]:
    """Seconds of one child by the published procedure, for random models of `layers` layers.

    It reads two checkpoints, merges them on the CPU, mutates with the factors of the full SVD in three products per
    matrix, copies to the GPU, and saves.
    """
    shapes = weights(layers)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("one", "two"):
            save_file({w.name: torch.randn(w.shape).to(w.dtype) for w in shapes}, f"{folder}/{name}.safetensors")
        factors = {s: torch.linalg.svd(torch.randn(s, device="cuda"), full_matrices=False) for s in _matrices(shapes)}
        start = time.perf_counter()
        one, two = (load_file(f"{folder}/{name}.safetensors") for name in ("one", "two"))
        read = time.perf_counter()
        merged = {name: 0.5 * one[name].float() + 0.5 * two[name].float() for name in one}
        merged_at = time.perf_counter()
        for name, tensor in merged.items():
            if tensor.ndim == 2 and tuple(tensor.shape) in factors:
                u, s, vh = factors[tuple(tensor.shape)]
                change = u @ torch.diag(s * torch.rand_like(s)) @ vh
                merged[name] = tensor + change.cpu()
        torch.cuda.synchronize()
        mutated = time.perf_counter()
        on_device = {name: tensor.to(torch.bfloat16).cuda() for name, tensor in merged.items()}
        torch.cuda.synchronize()
        copied = time.perf_counter()
        save_file({name: tensor.cpu() for name, tensor in on_device.items()}, f"{folder}/child.safetensors")
        saved = time.perf_counter()
    marks = {"read": read - start, "merge": merged_at - read, "mutate": mutated - merged_at}
    return {**marks, "copy": copied - mutated, "save": saved - copied, "total": saved - start}


def _matrices(shapes: tuple[Weight, ...]) -> set[tuple[int, ...]]:
    return {w.shape for w in shapes if len(w.shape) == 2 and w.shape[0] != VOCABULARY}


def engine(layers: int, utilization: float) -> Any:
    """vLLM with a random model of this shape and the benchmark's extension."""
    from vllm import LLM

    folder = Path(tempfile.mkdtemp())
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
        max_position_embeddings=4096,
    )
    config.save_pretrained(folder)
    return LLM(
        model=str(folder),
        load_format="dummy",
        skip_tokenizer_init=True,
        max_model_len=1024,
        gpu_memory_utilization=utilization,
        enforce_eager=True,
        worker_extension_cls=f"{Path(__file__).parent.name}.exchange.BenchmarkExtension",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--place", choices=["host", "device"], default="host")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--no-engine", action="store_true", help="build the tensors without loading them")
    parser.add_argument("--utilization", type=float, default=0.5, help="vLLM's share of the GPU's memory")
    parser.add_argument(
        "--published", action="store_true", help="also time the published procedure, on --layers layers"
    )
    arguments = parser.parse_args()
    rows: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "place": arguments.place, "layers": arguments.layers}
    rows["rates"] = rates()
    rows["bases"] = {f"{m} x {n}": bases_of(m, n) for m, n in ((INNER, HIDDEN), (HIDDEN, HIDDEN), (KEYS, HIDDEN))}
    if arguments.published:
        print(json.dumps({"published procedure": published(arguments.layers)}), flush=True)
    llm = None if arguments.no_engine else engine(arguments.layers, arguments.utilization)
    local = None
    if llm is not None:
        llm.collective_rpc("cycleqd_random", args=(arguments.layers, arguments.place))
    else:
        local = materialiser(arguments.layers, "cuda", arguments.place)
    for mutated in (0, 1, 3):
        seconds = []
        for genome in children(4, mutated):
            if llm is not None:
                seconds.append(llm.collective_rpc("cycleqd_timed", args=(genome.to_json(),))[0])
            else:
                torch.cuda.synchronize()
                start = time.perf_counter()
                for _ in local.tensors(genome):
                    pass
                torch.cuda.synchronize()
                seconds.append(time.perf_counter() - start)
        if llm is not None:
            genome = children(5, mutated)[-1]
            swap = llm.collective_rpc("cycleqd_timed", args=(genome.to_json(), True))[0]
            rows[f"{mutated} mutated, prepared"] = {"swap": swap}
        least = minimum(arguments.layers, mutated, arguments.place, rows["rates"])
        best = min(seconds[1:])
        rows[f"{mutated} mutated"] = {"seconds": seconds, **least, "ratio": best / least["minimum"]}
        print(json.dumps({f"{mutated} mutated": rows[f"{mutated} mutated"]}), flush=True)
    if llm is not None:
        rows["loading"] = llm.collective_rpc("cycleqd_ways", args=(children(1, 0)[0].to_json(),))[0]
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
