"""Reading and merging models leave the root logger without handlers, in one thread and in several."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

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


@pytest.fixture
def bare_root(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """The root logger as in a program that has not configured logging."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    return root


def test_opening_and_merging_add_no_handler(llama: Trio, bare_root: logging.Logger) -> None:
    family = open_recipe_family(llama.recipe)
    configuration = MergekitConfiguration(YAML.format(first=llama.experts[0], base=llama.base))
    assert len(dict(merged_tensors(configuration, family))) == len(family.weights)
    assert bare_root.handlers == []
    logging.debug("mergekit calls this while it reads a tensor")
    assert bare_root.handlers != [], "this is what reading would have done"


def test_several_threads_add_no_handler(llama: Trio, bare_root: logging.Logger) -> None:
    families = [open_recipe_family(llama.recipe) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda family: [family.base.read(name) for name in family.base.names * 50], families))
    assert bare_root.handlers == []
