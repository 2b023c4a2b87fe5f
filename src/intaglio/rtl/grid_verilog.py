"""The grid as Verilog, twice: a module a PE, for synthesis and every simulator; and loops over arrays, for speed.

Verilator flattens instances, so that its build grows with the array; loops it keeps. Both have the ports of
`array.Grid` as a black box, and tests drive them with the same streams.
"""

from __future__ import annotations

from intaglio.rtl.design import Design

_PORTS = """module grid(
  input clk,
  input rst,
  input os,
  input [{x}:0] x,
  input [{tag}:0] tag,
  input [{weight}:0] weight,
  output{reg} [{out}:0] out
);
"""

_INSTANCES = """  genvar i, j;
  generate
    for (i = 0; i < {rows}; i = i + 1) begin : row
      for (j = 0; j < {cols}; j = j + 1) begin : col
        wire [{op}:0] x_in, x_out, weight_in, weight_out;
        wire [4:0] tag_in, tag_out;
        wire [{sum}:0] sum_in, sum_out, total;
        pe pe(
          .clk(clk), .rst(rst), .os(os), .x_in(x_in), .tag_in(tag_in), .weight_in(weight_in), .sum_in(sum_in),
          .x_out(x_out), .tag_out(tag_out), .weight_out(weight_out), .sum_out(sum_out), .total(total)
        );
        if (j == 0) begin : edge_left
          assign x_in = x[{operand} * i +: {operand}];
          assign tag_in = tag[5 * i +: 5];
        end else begin : inner_left
          assign x_in = row[i].col[j - 1].x_out;
          assign tag_in = row[i].col[j - 1].tag_out;
        end
        if (i == 0) begin : edge_top
          assign weight_in = weight[{operand} * j +: {operand}];
          assign sum_in = 0;
        end else begin : inner_top
          assign weight_in = row[i - 1].col[j].weight_out;
          assign sum_in = row[i - 1].col[j].sum_out;
        end
        if (i == {rows} - 1) begin : bottom
          assign out[{sums} * j +: {sums}] = os ? sum_out : total;
        end
      end
    end
  endgenerate
endmodule
"""

_LOOPS = """  // For simulation. Registers of PE (i, j) lie at i * {cols} + j. PEs are visited from the last: each
  // reads the registers of its neighbours before they change.
  /* verilator lint_off BLKSEQ */
  reg signed [{op}:0] xs [0:{last}];
  reg signed [{op}:0] weights [0:{last}];
  reg signed [{sum}:0] sums [0:{last}];
  reg [4:0] tags [0:{last}];
{second}  reg signed [{op}:0] x_in, weight_in, used;
  reg signed [{sum}:0] sum_in, total;
  reg [4:0] tag_in;
  integer i, j, k;
  initial
    for (k = 0; k <= {last}; k = k + 1) begin
      xs[k] = 0; weights[k] = 0; sums[k] = 0; tags[k] = 0;{clear}
    end
  always @(posedge clk) begin
    for (i = {rows} - 1; i >= 0; i = i - 1)
      for (j = {cols} - 1; j >= 0; j = j - 1) begin
        k = i * {cols} + j;
        if (j == 0) begin x_in = x[{operand} * i +: {operand}]; tag_in = tag[5 * i +: 5]; end
        else begin x_in = xs[k - 1]; tag_in = tags[k - 1]; end
        if (i == 0) begin weight_in = weight[{operand} * j +: {operand}]; sum_in = 0; end
        else begin weight_in = weights[k - {cols}]; sum_in = sums[k - {cols}]; end
        used = os ? weight_in : {ws_weight};
        total = (os ? (tag_in[1] ? 0 : {os_sum}) : sum_in) + used * x_in;
        xs[k] = x_in; tags[k] = tag_in;
        if (os) begin
          weights[k] = weight_in;
{os_update}
        end else begin
          sums[k] = total;
{ws_update}
        end
      end
  end
  reg signed [{op}:0] bottom_x, bottom_used;
  reg [4:0] bottom_tag;
  integer b, q;
  always @* begin
    for (b = 0; b < {cols}; b = b + 1) begin
      q = ({rows} - 1) * {cols} + b;
      if (b == 0) begin
        bottom_x = x[{operand} * ({rows} - 1) +: {operand}]; bottom_tag = tag[5 * ({rows} - 1) +: 5];
      end else begin bottom_x = xs[q - 1]; bottom_tag = tags[q - 1]; end
      bottom_used = {bottom_weight};
      out[{sums} * b +: {sums}] = os ? sums[q] : {bottom_sum} + bottom_used * bottom_x;
    end
  end
endmodule
"""


def grid_of_pes(design: Design) -> str:
    """Instances of the module `pe`."""
    return _filled(_PORTS + _INSTANCES, design, reg="")


def grid_of_loops(design: Design) -> str:
    """One block over arrays: for simulation only."""
    second = design.second_register
    if second:
        declared = (
            "  reg signed [{op}:0] working_weights [0:{last}];\n  reg signed [{sum}:0] working_sums [0:{last}];\n"
        )
        os_update = (
            "          if (tag_in[0]) working_sums[k] = total;\n"
            "          if (tag_in[0] & tag_in[2]) sums[k] = total; else if (tag_in[4]) sums[k] = sum_in;"
        )
        ws_update = (
            "          if (tag_in[1]) working_weights[k] = weights[k];\n"
            "          if (tag_in[3]) weights[k] = weight_in;"
        )
    else:
        declared = ""
        os_update = "          if (tag_in[0]) sums[k] = total; else if (tag_in[4]) sums[k] = sum_in;"
        ws_update = "          if (tag_in[3]) weights[k] = weight_in;"
    values = {
        "reg": " reg",
        "clear": " working_weights[k] = 0; working_sums[k] = 0;" if second else "",
        "ws_weight": "tag_in[1] ? weights[k] : working_weights[k]" if second else "weights[k]",
        "bottom_weight": "bottom_tag[1] ? weights[q] : working_weights[q]" if second else "weights[q]",
        "os_sum": "working_sums[k]" if second else "sums[k]",
        "bottom_sum": "0" if design.rows == 1 else f"sums[q - {design.cols}]",
        "os_update": os_update,
        "ws_update": ws_update,
        "second": _filled(declared, design),
    }
    return _filled(_PORTS + _LOOPS, design, **values)


def _filled(text: str, design: Design, **values: str) -> str:
    rows, cols, operand, sums = design.rows, design.cols, design.operand_bits, design.sum_bits
    return text.format(
        rows=rows, cols=cols, operand=operand, sums=sums, op=operand - 1, sum=sums - 1, last=rows * cols - 1,
        x=rows * operand - 1, tag=5 * rows - 1, weight=cols * operand - 1, out=cols * sums - 1, **values,
    )  # fmt: skip
