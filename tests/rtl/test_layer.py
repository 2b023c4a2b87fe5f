"""A LoRA layer's step on the whole machine: sums, codes and exponents of `quantizers/integer_step.py`, bit for bit."""

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="needs intaglio[rtl]")

from intaglio.accelerator.dataflow import compute_cycles
from intaglio.quantizers import integer_step as step
from intaglio.rtl.design import GEMM_CYCLES, Design
from intaglio.rtl.layer import layer_program
from intaglio.rtl.simulate import run


def operands(rng, M, K, N, rank, bits, groups, seed):
    def normal(*shape):
        return (rng.normal(size=shape) * 2.0 ** rng.integers(-9, 9, (shape[0], 1))).astype(np.float32)

    x, g = step.quantize(normal(M, K), bits, groups), step.quantize(normal(M, N), bits, groups, seed)
    a, columns = step.quantize(normal(rank, K), 8, rank), step.quantize(normal(rank, N), 8, rank)
    weight = rng.integers(-127, 128, (N, K)).astype(np.int8)
    return x, g, weight, a, step.Codes(columns.codes.T, columns.exponent.T)


def check(design, x, g, weight, a, b, bits, groups, seed):
    layer = layer_program(design, x, g, weight, a, b, bits=bits, groups=groups, seed=seed)
    words, gemm_cycles, _ = run(layer.program)
    got = layer.matrices(words)
    first = step.forward(x, weight, a, b, bits=bits, groups=groups)
    second = step.backward(g, x, first.h, weight, a, b, bits=bits, groups=groups, seed=seed)
    rank, (N, K), M = len(a.codes), weight.shape, len(x.codes)
    expected = {"u": first.u, "v": second.v, "db": second.db, "da": second.da}
    for name, wide, narrow, width in (("y h", first.y, first.h, N), ("dx gh", second.dx, second.gh, K)):
        assert np.array_equal(got[name][:, :width], wide)
        assert np.array_equal(got[name][:, -rank:], narrow)
    for name, sums in expected.items():
        assert np.array_equal(got[name], sums), name
    of_rows = {"h": first.h_codes, "gh": second.gh_codes}
    of_columns = {"h_columns": second.h_columns, "gh_columns": second.gh_columns}
    for name, codes in {**of_rows, **of_columns}.items():
        assert np.array_equal(got[f"q_{name}"], codes.codes), name
        exponent = codes.exponent[:: M // groups] if name in of_rows else codes.exponent
        assert np.array_equal(got[f"e_{name}"], np.broadcast_to(exponent, got[f"e_{name}"].shape)), name
        assert codes.codes.any()
    arguments = {"rows": design.rows, "cols": design.cols, "overlap": design.overlap}
    model = sum(int(compute_cycles(*shape, dataflow=mode, **arguments)) for shape, mode in layer.gemms)
    assert gemm_cycles == model + GEMM_CYCLES * len(layer.gemms)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("seed", [None, 7], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("groups", [9, pytest.param(1, marks=pytest.mark.slow)], ids=["by token", "by tensor"])
def test_linear(bits, seed, groups):
    rng = np.random.default_rng(3)
    design = Design(4, 3, overlap="wavefront")
    check(design, *operands(rng, 9, 11, 7, 3, bits, groups, seed), bits, groups, seed)


@pytest.mark.parametrize("overlap", [pytest.param("serial", marks=pytest.mark.slow), "shadow"])
def test_convolution(overlap):
    """Over the rows that `unfold` makes, a scale a sample; `fold` of dx and v is the host's."""
    rng, convolution = np.random.default_rng(5), step.Convolution((3, 3), (2, 2), (1, 1), (1, 1))
    image = rng.integers(-127, 128, (2, 5, 4, 3)).astype(np.int8)
    patches = step.unfold(image, convolution)
    x, g, weight, a, b = operands(rng, len(patches), patches.shape[1], 5, 2, 8, 2, 7)
    x = step.Codes(patches, x.exponent)
    check(Design(5, 4, overlap=overlap, result_words=512, right_words=512), x, g, weight, a, b, 8, 2, 7)


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("bits", [2, pytest.param(5, marks=pytest.mark.slow), 8])
def test_edges_of_requantization(bits, seed):
    """Sums of every length, both signs, zeros, -2^31, and exponents far apart, by row and by column."""
    from amaranth.sim import Simulator

    from intaglio.rtl.instructions import TO_RESULT
    from intaglio.rtl.requantize import Requantizer

    rng = np.random.default_rng(bits)
    powers = 2 ** rng.integers(0, 32, (24, 4))
    sums = np.clip(
        rng.choice([-1, 1], powers.shape) * (powers + rng.integers(-2, 3, powers.shape)), -(2**31), 2**31 - 1
    )
    sums[3], sums[:, 2][:12], sums[5, 0], sums[6, 0] = 0, 0, -(2**31), 2**31 - 1
    rows, columns = rng.integers(-60, 61, 24), rng.integers(-60, 61, 4)
    for group in (1, 4, 24, 0):
        dut, memory, exponents = Requantizer(Design(1, 4)), {}, {}

        async def bench(context, dut=dut, memory=memory, exponents=exponents, group=group):
            for address, exponent in enumerate(rows):
                context.set(dut.row_exponent_write, 1)
                context.set(dut.row_exponent_address, address)
                context.set(dut.exponent, int(exponent))
                await context.tick()
            context.set(dut.row_exponent_write, 0)
            for exponent in columns:
                context.set(dut.column_exponent_write, 1)
                context.set(dut.exponent, int(exponent))
                await context.tick()
            context.set(dut.column_exponent_write, 0)
            number = 0 if seed is None else seed * 0x9E3779B9 & 0xFFFFFFFF
            job = {"rows": 24, "group": group, "target": TO_RESULT, "address": 100, "exponents": 200, "bits": bits}
            context.set(dut.job, {**job, "source": 0, "dither": seed is not None, "hash": number, "hash_step": 4})
            context.set(dut.start, 1)
            await context.tick()
            context.set(dut.start, 0)
            for _ in range(200):
                if not context.get(dut.busy):
                    return
                address = context.get(dut.read_address)
                if context.get(dut.store):
                    place = exponents if context.get(dut.store_address) >= 200 else memory
                    word = context.get(dut.store_data)
                    place[context.get(dut.store_address)] = [word[j] for j in range(4)]
                await context.tick()
                if address < 24:
                    context.set(dut.read_data, [int(v) for v in sums[address]])
            raise AssertionError("still busy")

        simulator = Simulator(dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(bench)
        simulator.run()
        wanted = step.requantize(
            sums.astype(np.int32), rows[:, None] + columns, bits, 24 // group if group else None, seed
        )
        got = np.array([memory[100 + row] for row in range(24)])
        assert np.array_equal(got, wanted.codes), group
        shared = np.array([exponents[200 + i] for i in range(24 // group if group else 1)])
        expected = wanted.exponent[::group] if group else wanted.exponent
        assert np.array_equal(shared, np.broadcast_to(expected, shared.shape)), group


def test_a_rank_beyond_the_array_says_so():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="rank 4 on 4 x 3 PEs"):
        layer_program(Design(4, 3), *operands(rng, 5, 6, 7, 4, 8, 5, None), bits=8, groups=5)
