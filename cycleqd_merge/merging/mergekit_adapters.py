"""LoRA adapters as mergekit takes them: merged into their base in float32, once, and kept in the cache.

mergekit names what it keeps by path alone and takes a folder that a broken merge left for a whole one. Here the name
follows from the contents, and a folder appears only when it is complete.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration

from cycleqd_merge.cache import cache_folder
from cycleqd_merge.config.recipe import ModelsConfig
from cycleqd_merge.merging.checkpoint import Checkpoint, digest_files
from cycleqd_merge.merging.download import adapter_folder

MERGE_DTYPE = "float32"


@contextmanager
def merged_adapters(config: MergeConfiguration, trust_remote_code: bool = False) -> Iterator[str]:
    """A folder to name as mergekit's `lora_merge_cache`: every adapter of `config` is there, merged into its base.

    Raises:
        UserError: a base or an adapter cannot be found.
    """
    with tempfile.TemporaryDirectory() as links:
        for reference in config.referenced_models():
            if reference.lora is not None:
                merged = _merged(reference, trust_remote_code)
                (Path(links) / merged.name).symlink_to(merged)
        yield links


def _merged(reference: ModelReference, trust_remote_code: bool) -> Path:
    """The folder that mergekit made of base and adapter, under the name that it gives it."""
    assert reference.lora is not None
    models = ModelsConfig(trust_remote_code=trust_remote_code)
    base = Checkpoint(ModelReference(model=reference.model), models)
    folder = adapter_folder(reference.lora, models, f"adapter {reference.lora}")
    adapter = digest_files(sorted(folder.glob("adapter_*")))
    key = f"{base.digest}|{adapter}|{MERGE_DTYPE}|{reference}"
    folder = cache_folder("lora") / hashlib.sha256(key.encode()).hexdigest()[:32]
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            try:
                reference.merged(str(unfinished), trust_remote_code, MERGE_DTYPE)
                unfinished.replace(folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return next(folder.iterdir())
