"""The models of the merging tests."""

from tests.merging.conftest import llama

__all__ = ["llama"]
