"""Model families to export children of."""

from tests.merging.conftest import llama, trio

__all__ = ["llama", "trio"]
