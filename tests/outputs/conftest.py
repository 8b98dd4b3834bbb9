"""Model families to export children of."""

import os

from tests.merging.conftest import llama, trio

__all__ = ["llama", "trio"]

# transformers 4 is installed in a folder of its own, see `.ci/transformers4`: elsewhere its tests are left out
collect_ignore = [] if os.environ.get("CYCLEQD_TRANSFORMERS4") else ["test_transformers4.py"]
