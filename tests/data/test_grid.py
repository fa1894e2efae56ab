"""The grid of 256 levels, against its formula in float64."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import nelbo.data
from nelbo.data import levels_to_unit, unit_to_levels

LEVELS = torch.arange(256, dtype=torch.uint8)
FORMULA = np.arange(256, dtype=np.float64) / 127.5 - 1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2**-25), (torch.float64, 2**-52)])
def test_all_levels_come_back_exactly(dtype, tolerance):
    x = levels_to_unit(LEVELS, dtype)
    assert x.dtype == dtype
    np.testing.assert_allclose(x.double().numpy(), FORMULA, rtol=0, atol=tolerance)
    assert torch.equal(unit_to_levels(x), LEVELS)


def test_float32_is_the_formula_rounded_once():
    """Lecture: data, x_0."""
    np.testing.assert_array_equal(levels_to_unit(LEVELS, torch.float32).numpy(), FORMULA.astype(np.float32))


def test_the_ends_are_exact_and_the_grid_is_odd():
    """Lecture: data, x_0."""
    x = levels_to_unit(LEVELS, torch.float64)
    assert (x[0].item(), x[255].item()) == (-1.0, 1.0)
    assert torch.equal(x, -x.flip(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_dtypes_are_cast_to_last(dtype):
    assert torch.equal(levels_to_unit(LEVELS, dtype), torch.from_numpy(FORMULA).to(torch.float32).to(dtype))


def test_narrow_numbers_are_rounded_in_float32():
    x = levels_to_unit(LEVELS, torch.float16)
    assert torch.equal(unit_to_levels(x), LEVELS)
    coarse = levels_to_unit(LEVELS, torch.bfloat16)
    assert torch.equal(unit_to_levels(coarse), ((coarse.double() + 1) * 127.5).round().to(torch.uint8))


def test_out_of_range_is_clamped_and_the_rest_rounded():
    x = torch.tensor([-9.0, -1.0, -1 + 0.49 / 127.5, -1 + 0.51 / 127.5, 0.999, 1.0, 1.1, float("inf")])
    assert unit_to_levels(x).tolist() == [0, 0, 0, 1, 255, 255, 255, 255]


def test_nan_has_no_level():
    with pytest.raises(ValueError, match="1 of 2 values are NaN"):
        unit_to_levels(torch.tensor([0.0, float("nan")]))


def test_kinds_are_checked():
    with pytest.raises(ValueError, match="levels are integers"):
        levels_to_unit(torch.zeros(2), torch.float32)
    with pytest.raises(ValueError, match="floating-point dtype"):
        levels_to_unit(LEVELS, torch.int32)
    with pytest.raises(ValueError, match="floating-point tensor"):
        unit_to_levels(LEVELS)


def test_importing_the_package_does_not_import_torch():
    # A bare parent stands in for nelbo itself, so that only nelbo.data is judged.
    code = (
        "import sys, types; parent = types.ModuleType('nelbo'); "
        f"parent.__path__ = [{str(Path(nelbo.data.__file__).parents[1])!r}]; sys.modules['nelbo'] = parent; "
        "import nelbo.data; sys.exit('torch' in sys.modules or 'rich' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
