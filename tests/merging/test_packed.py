"""Quantised weights whose configuration does not say so are refused in one line, in the base and in an expert."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cycleqd_merge.errors import UserError
from cycleqd_merge.merging.checks import check_family, require_mergeable
from tests.models import make_base, make_expert, make_recipe, open_recipe_family, read_tensors, write_tensors

FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
NAME = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A base and two experts."""
    base = make_base(tmp_path / "base", "llama")
    return base, make_expert(base, tmp_path / "one", 1), make_expert(base, tmp_path / "two", 2)


def error_of(folder: Path, models: tuple[Path, Path, Path]) -> str:
    base, one, two = models
    with pytest.raises(UserError) as raised:
        require_mergeable(open_recipe_family(make_recipe(folder, base, {"one": one, "two": two})))
    (line,) = str(raised.value).splitlines()
    return line


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("dtype", [*FLOAT8, torch.int8, torch.uint8], ids=str)
def test_a_packed_weight_is_refused(
    models: tuple[Path, Path, Path], tmp_path: Path, dtype: torch.dtype, place: int
) -> None:
    tensors = read_tensors(models[place])
    packed = tensors[NAME].float().to(dtype)
    write_tensors(models[place], {**tensors, NAME: packed.reshape(-1, 1) if dtype == torch.uint8 else packed})
    assert error_of(tmp_path, models) == (
        f"model {models[place]}: {NAME} is stored as {str(dtype).removeprefix('torch.')}, though its configuration "
        "states no quantisation; merging needs 16-bit or 32-bit weights"
    )


@pytest.mark.parametrize("place", [0, 1])
def test_scales_of_a_packed_weight_do_not_hide_it(models: tuple[Path, Path, Path], tmp_path: Path, place: int) -> None:
    tensors = read_tensors(models[place])
    tensors |= {NAME: tensors[NAME].to(torch.float8_e4m3fn), f"{NAME}_scale_inv": torch.ones(1, 1)}
    write_tensors(models[place], tensors)
    assert f"{NAME} is stored as float8_e4m3fn" in error_of(tmp_path, models)


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.mask", "model.layers.0.steps"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64], ids=str)
def test_integers_that_are_no_weights_are_kept(
    models: tuple[Path, Path, Path], tmp_path: Path, dtype: torch.dtype, name: str
) -> None:
    for model in models:
        write_tensors(model, {**read_tensors(model), name: torch.ones(1, 1, 4, 4, dtype=dtype)})
    base, one, two = models
    assert check_family(open_recipe_family(make_recipe(tmp_path, base, {"one": one, "two": two}))).errors == []
