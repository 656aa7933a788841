"""Half-precision inputs up to 10,000: no backend makes of finite numbers what is no number.

A score reaches 10^8, which half precision does not hold, and single precision to a few units. The weights of such
scores are one or nothing: outputs are bounded by the values, and only small inputs are compared number by number.
"""

import pytest
import torch
from kernel_helpers import make_problem, run

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MAGNITUDES = (1.0, 10.0, 100.0, 1e3, 1e4)
SCALED = ("query", "key", "value", "logits")
# one rounding of values and outputs; scores of 100 are rounded by 1e-5 in single precision
TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2}


def large(seed: int, magnitude: float, dtype: torch.dtype):
    """As kernel_helpers has it, with other numbers; nothing above `magnitude`."""
    generator = torch.Generator().manual_seed(seed)
    problem = make_problem(channels=8, boxes=seed % 2 == 1, padded=seed % 4 > 1, dtype=torch.float32)
    with torch.no_grad():
        for name in SCALED:
            tensor = problem.tensors[name]
            tensor.copy_((torch.rand(tensor.shape, generator=generator) * 2 - 1) * magnitude)
    return problem.cast(dtype)


def check(backend: str, kind: str, seed: int, dtype: torch.dtype) -> None:
    magnitude = MAGNITUDES[seed % len(MAGNITUDES)]
    problem = large(seed, magnitude, dtype)
    on_device = problem if backend == "auto" else problem.to(DEVICE)
    found = {name: tensor.cpu() for name, tensor in run(backend, kind, on_device).items()}
    assert not any(tensor.isnan().any() for tensor in found.values()), (seed, magnitude)
    assert found["output"].abs().max() <= 1.01 * magnitude
    if magnitude <= 10:
        exact = run("reference", kind, problem.cast(torch.float64))["output"]
        torch.testing.assert_close(found["output"].double(), exact, atol=TOLERANCE[dtype] * magnitude, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", ["deformable", "key_aware_shared", "key_aware"])
@pytest.mark.parametrize(("backend", "steps"), [("auto", 500), ("reference", 500), ("triton", 10)])
def test_no_step_gives_what_is_no_number(backend, steps, kind, dtype):
    for seed in range(500 if DEVICE == "cuda" else steps):
        check(backend, kind, seed, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", ["deformable", "key_aware_shared", "key_aware"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_one_step_of_each_magnitude(backend, kind, dtype):
    for seed in range(len(MAGNITUDES)):
        check(backend, kind, seed, dtype)
