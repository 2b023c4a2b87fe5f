"""Arguments for every operation from three sizes, and how near an implementation must come to the definition."""

import torch

from intaglio.kernels.gated import FUNCTIONS
from intaglio.kernels.weight_product import Window, integer_weight
from intaglio.quantizers.formats import parse_format
from intaglio.quantizers.quantize import quantize

NARROW = (torch.float32, torch.bfloat16)
SMOKE = [(1, 1, 1), (15, 31, 3), (16, 32, 4), (17, 33, 5), (63, 63, 15), (64, 64, 16), (65, 65, 17), (3, 1025, 33)]
"""One below, at and above a register, a tile, a block of rows and of columns; the last is longer than a panel."""
LONG = [(7, 21, 5), (260, 70, 40)]
"""For two threads: fewer rows, and more, than one takes at a time."""


class Maker:
    """Seeded tensors."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def floats(self, *shape, dtype=torch.float32):
        return torch.randn(shape, generator=self.generator).to(dtype)

    def scales(self, *shape):
        return torch.rand(shape, generator=self.generator) + 0.5

    def codes(self, *shape):
        return torch.randint(-127, 128, shape, dtype=torch.int8, generator=self.generator)


def _quantize_rows(make, m, c, n):
    for dtype in NARROW:
        yield make.floats(m, 1, c, dtype=dtype), None
        yield make.floats(m, 1, c, dtype=dtype), make.floats(1, c)
        yield make.floats(2, m, c, dtype=dtype), make.floats(2, c)
        yield make.floats(c, m, 2, dtype=dtype).transpose(0, 2), None


def _codes(make, m, c, n):
    for dtype, (bits, power_of_two), seed in zip(NARROW, ((8, False), (4, True)), (None, torch.tensor(n)), strict=True):
        for s in (None, seed):
            yield make.floats(m, c, dtype=dtype), bits, m, make.scales(c), None, power_of_two, s
            yield make.floats(m, c, dtype=dtype), bits, 0, None, make.scales(m), power_of_two, s


def _column_sums(make, m, c, n):
    for dtype in NARROW:
        a = make.floats(2, m, c, dtype=dtype)
        yield a, None, None
        yield a, make.codes(2, m, c), make.scales(2 * m)
    yield make.floats(2, m, c), make.floats(2, m, c), None


def _int8_matmul(make, m, k, n):
    yield make.codes(m, k), make.codes(n, k)
    yield make.codes(m, k), make.codes(k, n).T


def _weight_product(make, m, c, n):
    windows = [(Window(), (1, 1, m)), (Window((3, 3), (2, 1), (1, 1)), (2, 3, min(m, 9)))]
    for window, (batch, *size) in windows:
        if window.taps > 1:
            c, n = min(c, 70), min(n, 17)
        for format in ("int8", "int4", "nf4", "int4_g8_asym"):
            values = make.floats(n, c, *window.kernel)
            w = integer_weight(quantize(values, parse_format(format), "absmax"))
            for back in (False, True):
                out = window.output_size(tuple(size))
                x = make.codes(batch, *(out if back else size), n if back else c)
                geometry = [*window.kernel, *window.stride, *window.padding, *window.dilation, *(size if back else out)]
                columns = c if back else n
                yield (
                    x, w.qdata, w.zero_point, w.ratio, w.levels, list(w.shape), w.group_size, geometry, back,
                    make.scales(batch), make.scales(columns), make.floats(columns),
                    torch.bfloat16 if format == "int4" else torch.float32,
                )  # fmt: skip


def _pair_down(make, m, c, r):
    yield make.floats(m, c, dtype=torch.bfloat16), make.floats(r, c), 0.5


def _pair_up(make, m, c, r):
    yield make.floats(m, c, dtype=torch.bfloat16), make.floats(m, r, dtype=torch.bfloat16), make.floats(c, r).T, 0.5


def _pair_sums(make, m, c, r):
    h = make.floats(m, r, dtype=torch.bfloat16)
    yield make.floats(m, c, dtype=torch.bfloat16), h, 0.5
    yield make.codes(m, c), h, 0.5


def _attention(make, m, c, n):
    for int8 in (False, True):
        yield *_heads(make, (m, c, c), n), 0.3, int8


def _attention_gradient(make, m, c, n):
    from intaglio.kernels.attention.reference import attend

    q, k, v, grad = _heads(make, (m, c, c, m), n)
    out, lse = attend(q.float(), k.float(), v.float(), 0.3)
    yield grad, q, k, v, out.bfloat16(), lse, 0.3


def _heads(make, lengths, head_dim):
    return [make.floats(1, t, 2, head_dim, dtype=torch.bfloat16).transpose(1, 2) for t in lengths]


def _group_norm(make, m, c, n):
    for dtype, silu in zip(NARROW, (False, True), strict=True):
        yield make.floats(2, m, 4 * c, dtype=dtype), make.floats(4 * c), make.floats(4 * c), 4, 1e-5, silu, True


def _group_norm_grad(make, m, c, n):
    for dtype in NARROW:
        x = make.floats(2, m, 4 * c, dtype=dtype)
        of_group = make.floats(2, 4), make.scales(2, 4), make.floats(4 * c), make.floats(4 * c)
        yield make.floats(*x.shape, dtype=dtype), x, None, *of_group, True, True
        yield make.floats(*x.shape, dtype=dtype), make.codes(*x.shape), make.scales(2 * m) / 64, *of_group, False, True


def _layer_norm(make, m, c, n):
    for dtype in NARROW:
        yield make.floats(m, c, dtype=dtype), make.floats(c), make.floats(c), 1e-5, True


def _layer_norm_grad(make, m, c, n):
    for dtype in NARROW:
        grad, of_row = make.floats(m, c, dtype=dtype), (make.floats(m), make.scales(m), make.floats(c))
        yield grad, make.floats(m, c, dtype=dtype), None, *of_row
        yield grad, make.codes(m, c), make.scales(m) / 64, *of_row


def _gated(make, m, c, n):
    for function in FUNCTIONS:
        for dtype in NARROW:
            yield make.floats(m, 2 * c, dtype=dtype), function, True, True
            yield make.floats(m, c, dtype=dtype), function, False, False


def _gated_grad(make, m, c, n):
    for function in FUNCTIONS:
        for dtype in NARROW:
            grad = make.floats(m, c, dtype=dtype)
            yield grad, make.floats(m, 2 * c, dtype=dtype), None, function, True
            yield grad, make.codes(m, 2 * c), make.scales(2 * m) / 32, function, True
            yield grad, make.codes(m, c), make.scales(m) / 32, function, False


def _low_rank_update(make, m, c, r):
    columns = m + 3
    for dtype in NARROW:
        for groups, bits, power_of_two in ((m, 8, False), (1, 4, True)):
            yield (
                make.floats(m, columns, dtype=dtype), make.codes(m, c), make.codes(r, c), make.codes(columns, r),
                make.scales(groups), make.scales(r), make.scales(r), make.scales(columns), bits, power_of_two,
            )  # fmt: skip


def _rank_product(make, m, c, r):
    yield make.codes(m, c), make.codes(r, c)
    yield make.codes(m, c), make.codes(c, r).T


def _token_gradient(make, m, c, r):
    h = (make.floats(m, r) * 1e6).int()
    for groups, bits, power_of_two, seed in ((m, 8, False, None), (1, 4, True, torch.tensor(7))):
        scales = make.scales(groups), make.scales(groups), make.scales(r)
        yield h, *scales, make.codes(m, c), make.scales(c), 0.3, bits, power_of_two, seed, bits == 4


MAKERS = {name.removeprefix("_"): made for name, made in list(globals().items()) if name[0] == "_" and name[1] != "_"}
MAKERS.pop("heads")

BOUNDS = {
    "column_sums": 1e-5,
    "pair_down": 2.0**-6,
    "pair_up": 2.0**-6,
    "pair_sums": 2.0**-7,
    "attention": 2.0**-6,
    "attention_gradient": 2.0**-5,
    "group_norm": 2.0**-7,
    "group_norm_grad": 2.0**-7,
    "layer_norm": 2.0**-7,
    "layer_norm_grad": 2.0**-7,
    "gated": 2.0**-7,
    "gated_grad": 2.0**-7,
}
"""How far floats may be off, of the largest of the tensor: a few roundings to bfloat16. Results in float32 must come
nearer: 2e-5, and 4e-4 where the operands are bfloat16, for which exp and erf are coarse; but the definition of
`pair_sums` rounds its result to bfloat16 first. An operation that is not here is exact, bit for bit. The tests of each
operation hold it to a derived bound."""


def made_for(name, sizes, seed=0):
    """Argument tuples of an operation."""
    return list(MAKERS[name](Maker(seed), *sizes))


def run(function, args):
    """What it returns and, where it may write, its first argument; of a copy, so that `args` stay."""
    first = args[0].clone(memory_format=torch.preserve_format)
    returned = function(first, *args[1:])
    results = (returned,) if isinstance(returned, torch.Tensor) else returned or ()
    return [*results, first]


def assert_conforms(name, got, expected):
    near = 4e-4 if got[-1].dtype == torch.bfloat16 else 2e-5  # the last is an operand
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        bound = BOUNDS.get(name)
        if bound is None or not a.is_floating_point():
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        elif a.numel():
            if a.dtype != torch.bfloat16 and name != "pair_sums":
                bound = min(bound, near)
            assert float((a.double() - b.double()).abs().max()) <= bound * max(1.0, float(b.double().abs().max()))
