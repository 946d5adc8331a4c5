"""Linear layers, in every implementation that this machine has, against the product in float64."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from reason.errors import UsageError
from reason.runtime import linear
from reason.runtime.linear import GatedLinear, Linear, can_pack
from reason.runtime.native.kernels import Kernels, make_kernels
from reason.runtime.quantized import Int4Linear, Int8Linear, Products, WeightOnlyInt8Linear, products_for

CPU = torch.device("cpu")
SHAPES = [(64, 96), (96, 64), (48, 40), (33, 7)]  # the last two suit no tile


def native(kind: str) -> Kernels:
    kernels = make_kernels(amx=kind == "native")
    if kernels is None:
        pytest.skip("no compiled kernels on this machine")
    return kernels


@pytest.fixture(params=["native", "native-without-amx", "onednn", "plain"])
def _implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = native(request.param) if request.param.startswith("native") else None
    if request.param == "onednn" and not can_pack(torch.bfloat16, CPU):
        pytest.skip("oneDNN has no bf16 kernels here")
    monkeypatch.setattr(linear, "kernels_for", lambda dtype, device: kernels if dtype == torch.bfloat16 else None)
    if request.param == "plain":
        monkeypatch.setattr(linear, "can_pack", lambda dtype, device: False)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_rounded(got: torch.Tensor, exact: torch.Tensor) -> None:
    """Equal up to one rounding to bf16 of the result, and of what went before it."""
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), exact, atol=0.1, rtol=0.012)


@pytest.mark.usefixtures("_implementation")
@pytest.mark.parametrize("rows", [1, 2, 16, 17, 33])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_linear_and_its_residual(outputs: int, inputs: int, biased: bool, rows: int) -> None:
    weight, x, other = random(outputs, inputs), random(rows, inputs, seed=1), random(rows, outputs, seed=2)
    bias = random(outputs, seed=3) if biased else None
    layer = Linear(weight.clone(), bias)
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert_rounded(layer(x), exact)
    assert_rounded(layer.plus(x, other), exact + other.double())


@pytest.mark.usefixtures("_implementation")
@pytest.mark.parametrize("rows", [1, 17])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_gated_linear(outputs: int, inputs: int, rows: int) -> None:
    gate, up, x = random(outputs, inputs), random(outputs, inputs, seed=1), random(rows, inputs, seed=2) * 0.3
    exact = F.silu(x.double() @ gate.double().T) * (x.double() @ up.double().T)
    got = GatedLinear(gate.clone(), up.clone())(x)
    assert got.shape == (rows, outputs)
    assert_rounded(got, exact)


@pytest.mark.parametrize("kind", ["native", "native-without-amx"])
def test_a_row_is_the_same_in_every_batch(kind: str) -> None:
    """To the last bit: what is drawn from a row must not depend on who else is in the forward."""
    kernels = native(kind)
    weight, coded, x = Kernels.pack(random(96, 224)), Kernels.pack_int8(random(96, 224)), random(70, 224, seed=1)
    for product in (partial(kernels.linear, packed=weight), partial(kernels.linear_int8, weight=coded)):
        alone = torch.cat([product(row[None]) for row in x])
        for rows in (2, 3, 5, 6, 7, 12, 13, 16, 17, 32, 33, 48, 70):
            assert torch.equal(product(x[:rows]), alone[:rows]), rows


def test_float32_is_not_rounded() -> None:
    weight, x = random(48, 40, dtype=torch.float32), random(5, 40, seed=1, dtype=torch.float32)
    torch.testing.assert_close(Linear(weight)(x).double(), x.double() @ weight.double().T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 5, 32])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("kind", "levels"), [("int8", 254), ("int4", 15)])
def test_quantised_weights_are_within_half_a_step(kind: str, levels: int, biased: bool, rows: int) -> None:
    """Each weight is off by at most half a quantisation step (and the rounding of step and zero to bf16)."""
    weight, x = random(64, 96), random(rows, 96, seed=1)
    weight[3] *= 20  # an outlier row must not spoil the others
    bias = random(64, seed=2) if biased else None
    layer = (WeightOnlyInt8Linear if kind == "int8" else Int4Linear)(weight.clone(), bias)
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    groups = weight.double() if kind == "int8" else weight.double().view(64, 3, 32)
    if kind == "int8":
        step = 2 * groups.abs().amax(dim=-1, keepdim=True) / levels
    else:
        step = ((groups.amax(-1) - groups.amin(-1)) / levels).repeat_interleave(32, dim=1)
    rounding = 2**-8 * weight.double().abs().amax(dim=1, keepdim=True)
    bound = F.linear(x.double().abs(), (step / 2 + rounding).expand(64, 96)) + 0.01 * exact.abs() + 0.05
    error = (layer(x).double() - exact).abs()
    assert bool((error <= bound).all())
    assert float(error.max()) > 0
    other = random(rows, 64, seed=3)
    torch.testing.assert_close(layer.plus(x, other), layer(x) + other)


def coded(values: torch.Tensor, group: int) -> torch.Tensor:
    """What is left of values [rows, k] in 8 bits, each group by its own largest magnitude; float64."""
    groups = values.float().view(len(values), -1, group)
    top = groups.abs().amax(dim=-1, keepdim=True)
    codes = torch.round(groups * torch.where(top > 0, torch.tensor(127.0) / top, 0.0))  # ties fall as in the kernel
    return (codes.double() * top.double() / 127).view(values.shape)


@pytest.mark.parametrize("rows", [1, 5, 12, 13, 32, 33])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("outputs", "inputs", "group"), [(64, 96, 32), (96, 448, 64)])
def test_products_of_codes_are_exact(outputs: int, inputs: int, group: int, biased: bool, rows: int) -> None:
    """But for their last rounding."""
    weight, x = random(outputs, inputs), random(rows, inputs, seed=1)
    weight[3] *= 20
    x[:, 5] *= 50  # an outlier channel spoils its own group alone
    x[rows // 2, :group] = 0
    bias = random(outputs, seed=2) if biased else None
    layer = Int8Linear(native("native"), weight, bias)
    exact = F.linear(coded(x, group), coded(weight, group), None if bias is None else bias.double())
    torch.testing.assert_close(layer(x).double(), exact, atol=0.02, rtol=0.004)
    other = random(rows, outputs, seed=3)
    torch.testing.assert_close(layer.plus(x, other).double(), exact + other.double(), atol=0.02, rtol=0.004)
    out = torch.empty(rows, outputs, dtype=torch.bfloat16)
    assert layer(x, out) is out


def test_gates_in_8_bits() -> None:
    native("native")
    gate, up, x = random(64, 96), random(64, 96, seed=1), random(17, 96, seed=2) * 0.3
    exact = F.silu(coded(x, 32) @ coded(gate, 32).T) * (coded(x, 32) @ coded(up, 32).T)
    torch.testing.assert_close(
        products_for("int8", torch.bfloat16, CPU).gated(gate, up)(x).double(), exact, atol=0.1, rtol=0.02
    )


def test_weights_that_int8_holds_exactly_are_multiplied_exactly() -> None:
    codes = torch.randint(-127, 128, (32, 64), generator=torch.Generator().manual_seed(0))
    codes[:, 0] = 127
    weight, x = (codes * 2.0**-6).to(torch.bfloat16), random(4, 64, seed=1)
    exact = x.double() @ weight.double().T
    torch.testing.assert_close(
        WeightOnlyInt8Linear(weight)(x).double(), exact, atol=0.01, rtol=0.004
    )  # bf16 rounds by 2**-9


def test_constant_weights_survive() -> None:
    """A row or group without spread has no step to divide by."""
    x = random(4, 64, seed=1)
    for value in (0.0, 0.5):
        weight = torch.full((32, 64), value, dtype=torch.bfloat16)
        for layer in (products_for("int8", torch.bfloat16, CPU).linear(weight, None), Int4Linear(weight)):
            assert_rounded(layer(x), x.double() @ weight.double().T)


@pytest.mark.parametrize(
    ("kind", "outputs", "inputs"), [("int8", 32, 20), ("int8", 32, 24), ("int4", 32, 48), ("int4", 40, 64)]
)
def test_shapes_without_a_kernel_are_refused(kind: str, outputs: int, inputs: int) -> None:
    """When the layer is made: torch's int8 kernel reads beyond such weights, and may crash, when it is called."""
    with pytest.raises(UsageError, match="multiple"):
        products_for(kind, torch.bfloat16, CPU).linear(random(outputs, inputs), None)


def test_what_can_be_quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    assert products_for(None, torch.float32, CPU) == Products(Linear, GatedLinear, Linear)
    with pytest.raises(UsageError, match="int8 or int4"):
        products_for("fp8", torch.bfloat16, CPU)
    with pytest.raises(UsageError, match="bfloat16 on a CPU"):
        products_for("int4", torch.float32, CPU)
    with pytest.raises(UsageError, match="bfloat16 on a CPU"):
        products_for("int8", torch.bfloat16, torch.device("cuda"))
    monkeypatch.setattr(linear, "kernels_for", lambda dtype, device: None)
    without = products_for("int8", torch.bfloat16, CPU)
    assert type(without.linear(random(32, 64), None)) is WeightOnlyInt8Linear
    assert type(without.head(random(32, 64), None)) is Linear
    x, gate = random(3, 64), random(32, 64)
    assert_rounded(
        without.gated(gate, gate)(x * 0.1),
        F.silu(0.1 * x.double() @ gate.double().T) * (0.1 * x.double() @ gate.double().T),
    )
