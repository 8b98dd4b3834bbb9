"""LoRA adapters for mergekit: merged into their base once, in float32, and cached.

mergekit's own cache names folders by the models' paths alone, and uses a folder that an interrupted merge left
incomplete. Here the name is derived from the contents, and a folder appears only once it is complete.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration

from cycleqd_merge.cache import cache_folder
from cycleqd_merge.config.recipe import ModelsConfig
from cycleqd_merge.files import new_folder, remove_leftovers
from cycleqd_merge.merging.checkpoint import Checkpoint, digest_files
from cycleqd_merge.merging.download import adapter_folder

MERGE_DTYPE = "float32"


@contextmanager
def merged_adapters(
    config: MergeConfiguration, trust_remote_code: bool = False, others: Collection[ModelReference] = ()
) -> Iterator[str]:
    """A folder for mergekit's `lora_merge_cache`, with every adapter of `config` merged into its base.

    others: adapters that mergekit does not read from there.

    Raises:
        ModelError: a base or an adapter cannot be opened.
        HubRefused: one cannot be downloaded.
    """
    with tempfile.TemporaryDirectory() as links:
        for reference in config.referenced_models():
            if reference.lora is not None and reference not in others:
                merged = _merged(reference, trust_remote_code)
                (Path(links) / merged.name).symlink_to(merged)
        yield links


def _merged(reference: ModelReference, trust_remote_code: bool) -> Path:
    """The folder of base and adapter merged, under the name that mergekit looks for."""
    assert reference.lora is not None
    models = ModelsConfig(trust_remote_code=trust_remote_code)
    base = Checkpoint(ModelReference(model=reference.model), models)
    folder = adapter_folder(reference.lora, models, f"adapter {reference.lora}")
    adapter = digest_files(sorted(folder.glob("adapter_*")))
    key = f"{base.digest}|{adapter}|{MERGE_DTYPE}|{reference}"
    folder = cache_folder("lora") / hashlib.sha256(key.encode()).hexdigest()[:32]
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            remove_leftovers(folder)
            with new_folder(folder) as unfinished:
                reference.merged(str(unfinished), trust_remote_code, MERGE_DTYPE)
    return next(folder.iterdir())
