"""The records of a frozen run and of a model exported from it, in a form that names no machine."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

ROOT, OUT = "@ROOT@", "@OUT@"
"""Placeholders in a kept file for the checkout that created it and for the run's directory."""
LIBRARIES = ("safetensors", "tokenizers", "transformers")
"""Libraries that write some of an exported model's files, each in its own format."""
OWN_FILES = ("genome.json", "mergekit_config.yml")
"""Files that this package itself writes, besides the tensors."""
PROJECTIONS = 4


def portable(text: str, root: Path, *outs: Path) -> str:
    """A text without this machine's paths and the package's version. outs: the longer ones first."""
    for path, name in (*((out, OUT) for out in outs), (root, ROOT)):
        text = text.replace(json.dumps(str(path))[1:-1], name)
    return re.sub(r'("made_by": "cycleqd-merge )[^"]*"', r'\1@VERSION@"', text)


def restored(text: str, root: Path, out: Path) -> str:
    """A kept text with this machine's paths."""
    return text.replace(ROOT, json.dumps(str(root))[1:-1]).replace(OUT, json.dumps(str(out))[1:-1])


def outcome(event: Mapping[str, Any]) -> str:
    """A journal's event as it must be reproduced, to the last digit: without times and keys that are newer than it."""
    return json.dumps({key: value for key, value in event.items() if key not in ("seconds", "time", "outcomes")})


def untimed(shown: Mapping[str, Any]) -> dict[str, Any]:
    """The output of `show --json`, without times."""
    return {key: value for key, value in shown.items() if key != "seconds_per_evaluation"}


def exported(folder: Path, root: Path, *outs: Path) -> dict[str, Any]:
    """Digests of an exported model's files and tensors, and a sketch of each tensor to compare it roughly by."""
    files = {}
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        own = path.name in OWN_FILES
        files[path.name] = _digest(portable(whole.decode(), root, *outs).encode() if own else whole)
    tensors = {name: _tensor(tensor) for name, tensor in sorted(load_file(folder / "model.safetensors").items())}
    return {"files": files, "tensors": tensors}


def heldout(evaluated: Mapping[str, Any]) -> dict[str, Any]:
    """The output of `evaluate --json`, with a digest of the samples' scores."""
    return {
        model: {
            task: {**result, "samples": _digest(json.dumps(result["samples"]).encode())}
            for task, result in results.items()
        }
        for model, results in evaluated.items()
    }


def versions() -> dict[str, str]:
    """The versions of the libraries that write files."""
    return {name: version(name) for name in LIBRARIES}


def arithmetic(models: Path) -> dict[str, str]:
    """Digests of results of this machine's linear algebra, without any code of this package.

    Another CPU, or another build of a library, may round otherwise: then singular bases, proposals and answers may
    differ in their last bits from those of the machine that froze the runs.
    models: the quickstart's.
    """
    base, expert = (load_file(models / name / "model.safetensors") for name in ("base", "reverse"))
    singular = hashlib.sha256()
    for name in sorted(base):
        if base[name].dim() == 2:
            difference = (expert[name].float() - base[name].float()).double()
            for part in torch.linalg.eigh(difference.T @ difference):
                singular.update(part.numpy().tobytes())
    square = np.random.Generator(np.random.Philox(0)).standard_normal((24, 24))
    covariance = square @ square.T
    parts = (*np.linalg.eigh(covariance), np.linalg.cholesky(covariance))
    model: Any = AutoModelForCausalLM.from_pretrained(models / "base", dtype="auto")
    tokens = torch.arange(51 * 10).reshape(51, 10) % 90 + 3
    with torch.inference_mode():
        logits = model(tokens).logits.float()
    return {
        "singular": singular.hexdigest(),
        "covariance": _digest(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)),
        "logits": _digest(logits.numpy().tobytes()),
    }


def _tensor(tensor: torch.Tensor) -> dict[str, Any]:
    """dtype, shape and digest; the norm, and projections on fixed random directions."""
    values = tensor.double().flatten()
    draws = np.random.Generator(np.random.Philox(0)).standard_normal((PROJECTIONS, len(values)))
    projections = torch.from_numpy(draws) @ values
    return {
        "kind": f"{tensor.dtype} {list(tensor.shape)}",
        "digest": _digest(tensor.contiguous().view(torch.uint8).numpy().tobytes()),
        "norm": float(f"{values.norm():.9g}"),
        "projections": [float(f"{each:.9g}") for each in projections],
    }


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
