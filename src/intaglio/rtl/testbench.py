"""A testbench in Verilog that checks itself: a program, the words that it loads, and those that it must store.

An array of both dataflows runs a LoRA layer; an array of one, GEMMs whose edges are ragged.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from intaglio.files import write_text_atomic
from intaglio.quantizers import integer_step as step
from intaglio.rtl.design import GEMM_CYCLES, Design, input_bits
from intaglio.rtl.instructions import INSTRUCTION
from intaglio.rtl.layer import layer_program
from intaglio.rtl.program import Bytes, Program, gemm_program, result_words

_SEED = 7

_TEXT = """// Runs the program of instructions.hex on the machine and compares what it stores. For iverilog -g2005.
`timescale 1ns / 1ps
module testbench;
  reg clk = 0, rst = 1;
  reg [{instruction}:0] instructions [0:{last_instruction}];
  reg [{in}:0] beats [0:{last_beat}];
  reg [{out}:0] words [0:{last_word}];
  reg [31:0] instruction = 0, beat = 0, word = 0, wrong = 0;
  wire instruction_ready, in_ready, out_valid, idle;
  wire [{out}:0] out_data;
  wire [31:0] gemm_cycles;
  machine machine(
    .clk(clk), .rst(rst), .instruction(instructions[instruction]), .instruction_valid(instruction < {instructions}),
    .instruction_ready(instruction_ready), .in_data(beats[beat]), .in_valid(beat < {beats}), .in_ready(in_ready),
    .out_data(out_data), .out_valid(out_valid), .out_ready(1'b1), .idle(idle), .gemm_cycles(gemm_cycles)
  );
  always #1 clk = ~clk;
  initial begin
    $readmemh("instructions.hex", instructions);
    $readmemh("beats.hex", beats);
    $readmemh("words.hex", words);
    #4 rst = 0;
  end
  always @(posedge clk) if (!rst) begin
    if (instruction_ready) instruction <= instruction + 1;
    if (in_ready && beat < {beats}) beat <= beat + 1;
    if (out_valid) begin
      word <= word + 1;
      if (out_data !== words[word]) wrong <= wrong + 1;
    end
    if (idle) begin
      if (wrong == 0 && word == {words} && gemm_cycles == {cycles})
        $display("PASS: %0d words equal, %0d cycles of GEMMs", word, gemm_cycles);
      else
        $display(
          "FAIL: %0d of {words} words stored, %0d wrong, %0d cycles of GEMMs for {cycles}", word, wrong, gemm_cycles
        );
      $finish;
    end
  end
  initial #{patience} begin
    $display("FAIL: not idle, %0d of {words} words stored", word);
    $finish;
  end
endmodule
"""


def write_testbench(design: Design, folder: Path) -> list[Path]:
    """testbench.v and the three files that it reads."""
    program, words, cycles = vectors(design)
    beats = program.beats()
    digits = -(-INSTRUCTION.size // 4)
    counts = {"instructions": len(program.instructions), "beats": len(beats), "words": len(words)}
    texts = {
        "testbench.v": _TEXT.format(
            instruction=INSTRUCTION.size - 1, out=design.cols * design.sum_bits - 1, cycles=cycles,
            last_instruction=counts["instructions"] - 1, last_beat=counts["beats"] - 1, last_word=counts["words"] - 1,
            patience=100 * (cycles + len(beats) + len(words)) + 10_000, **{"in": input_bits(design) - 1}, **counts,
        ),
        "instructions.hex": "".join(f"{bits:0{digits}x}\n" for bits in program.instructions),
        "beats.hex": _hex(beats, input_bits(design)),
        "words.hex": _hex(words, design.cols * design.sum_bits),
    }  # fmt: skip
    for name, text in texts.items():
        write_text_atomic(folder / name, text)
    return [folder / name for name in texts]


def vectors(design: Design) -> tuple[Program, Bytes, int]:
    """A program, the words that it must store by `integer_step`, and the cycles of its GEMMs."""
    rng = np.random.default_rng(0)
    if design.has_ws and design.has_os and design.operand_bits == 8:
        return _layer(design, rng)
    (mode,) = design.modes[:1]
    limit = 1 << (design.operand_bits - 1)
    M, N, K = 5, design.cols + 1, design.rows + 2
    x, w = rng.integers(-limit, limit, (M, K)), rng.integers(-limit, limit, (K, N))
    cycles = design.fold_cycles((M, N, K), mode) + GEMM_CYCLES
    return gemm_program(design, x, w, mode), result_words(x @ w, design), cycles


def _layer(design: Design, rng: np.random.Generator) -> tuple[Program, Bytes, int]:
    M, N, K, rank = 6, design.cols + 1, design.rows + 2, min(2, design.rows, design.cols)

    def quantized(rows: int, columns: int, groups: int) -> step.Codes:
        return step.quantize(rng.normal(size=(rows, columns)).astype(np.float32), 8, groups)

    x, g, a, columns = quantized(M, K, M), quantized(M, N, M), quantized(rank, K, rank), quantized(rank, N, rank)
    b = step.Codes(columns.codes.T, columns.exponent.T)
    weight = rng.integers(-127, 128, (N, K)).astype(np.int8)
    layer = layer_program(design, x, g, weight, a, b, bits=8, groups=M, seed=_SEED)
    first = step.forward(x, weight, a, b, bits=8, groups=M)
    second = step.backward(g, x, first.h, weight, a, b, bits=8, groups=M, seed=_SEED)
    expected: dict[str, np.ndarray] = {"u": first.u, "v": second.v, "db": second.db, "da": second.da}
    codes = {
        "h": first.h_codes,
        "gh": second.gh_codes,
        "h_columns": second.h_columns,
        "gh_columns": second.gh_columns,
    }
    for name, found in codes.items():
        of_rows = found.exponent.shape[1] == 1  # the exponent of a row is in every lane
        expected |= {
            f"q_{name}": found.codes,
            f"e_{name}": np.repeat(found.exponent, design.cols, 1) if of_rows else found.exponent,
        }
    for name, wide, narrow in (("y h", first.y, first.h), ("dx gh", second.dx, second.gh)):
        padding = -wide.shape[1] % design.cols
        expected[name] = np.hstack([np.pad(wide, ((0, 0), (0, padding))), narrow])
    words = np.concatenate([result_words(expected[name], design) for name, _, _ in layer.stored])
    cycles = sum(design.fold_cycles(shape, mode) + GEMM_CYCLES for shape, mode in layer.gemms)
    return layer.program, words, cycles


def _hex(words: Bytes, bits: int) -> str:
    digits = -(-bits // 4)
    return "".join(row[::-1].tobytes().hex()[-digits:].zfill(digits) + "\n" for row in words)
