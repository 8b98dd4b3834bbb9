"""Reading and merging models leave the root logger without handlers, in one thread and in several."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from cycleqd_merge.evolution.candidate import MergekitConfiguration
from cycleqd_merge.merging.mergekit_run import merged_tensors
from tests.merging.conftest import Trio
from tests.models import open_recipe_family

YAML = """
merge_method: linear
models:
  - {{model: {first}, parameters: {{weight: 0.5}}}}
  - {{model: {base}, parameters: {{weight: 0.5}}}}
dtype: bfloat16
"""


@contextmanager
def bare_root() -> Iterator[logging.Logger]:
    """The root logger as in a program that has not configured logging; pytest adds handlers before each test."""
    root = logging.getLogger()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(root, "handlers", [])
        yield root


def test_opening_and_merging_add_no_handler(llama: Trio) -> None:
    configuration = MergekitConfiguration(YAML.format(first=llama.experts[0], base=llama.base))
    with bare_root() as root:
        family = open_recipe_family(llama.recipe)
        assert len(dict(merged_tensors(configuration, family))) == len(family.weights)
        assert root.handlers == []
        logging.debug("mergekit logs like this while it reads a tensor")
        assert root.handlers != [], "this is what reading would have done"


def test_several_threads_add_no_handler(llama: Trio) -> None:
    families = [open_recipe_family(llama.recipe) for _ in range(4)]
    with bare_root() as root, ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda family: [family.base.read(name) for name in family.base.names * 50], families))
        assert root.handlers == []
