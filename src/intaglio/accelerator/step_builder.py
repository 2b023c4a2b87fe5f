"""Writes down the operations of one fine-tuning step from a model's shapes alone: events as the recorder would see
them.

No model and no torch: for published shapes, for check values, for exploration. A recorded trace of the same step says
the same (`tests/trace` compares the two where torch is at hand).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from intaglio.trace.schema import Convolution, Event, Header, Operand, Trace, gemm_event

Method = Literal["lora", "full", "scales"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A float activation (rows, features); `grad` tells whether the backward pass reaches it."""

    name: str
    rows: int
    features: int
    grad: bool


@dataclass
class StepBuilder:
    """Collects the events of one step. Forward events in order; backward events are turned round at the end.

    method: "lora" trains a pair of rank `rank` on the layers built with `adapted=True`; "full" trains every weight;
    "scales" trains one scale per output channel of every weight (PEQA, TuneQDM), whose gradient is vector work.
    bits: of weights, activations and gradients in the products; 16 stands for unquantized.
    """

    model: str
    method: Method = "lora"
    rank: int = 16
    bits: int = 8
    forward: list[Event] = field(default_factory=list)
    backward: list[Event] = field(default_factory=list)
    trained_parameters: int = 0
    _quantized: set[tuple[str, str]] = field(default_factory=set)

    def trace(self, **step: object) -> Trace:
        optimizer = Event("vector", "optimizer", "", kind="adamw", elements=max(1, self.trained_parameters))
        facts = {"rank": self.rank, "bits": self.bits, "trained_parameters": self.trained_parameters, **step}
        return Trace(Header(self.model, self.method, facts), (*self.forward, *reversed(self.backward), optimizer))

    def linear(self, layer: str, x: Tensor, out_features: int, adapted: bool = False) -> Tensor:
        """A frozen Linear on `x`, with a LoRA pair where `adapted`."""
        M, K, N = x.rows, x.features, out_features
        adapted = adapted and self.method == "lora"
        trained = adapted or self.method != "lora"
        y = Tensor(f"{layer}:y", M, N, x.grad or trained)
        skipped = {} if x.grad else {"grad_input": "the input needs no gradient"}
        if self.method == "lora":
            skipped["grad_weight"] = "the weight is frozen"
        w = self._operand("weight", (K, N), f"{layer}.weight")
        self._quantize("output", layer, x.name, M * K)
        self._gemm("output", layer, self._x(x), w, M, N, K, skipped=skipped)
        if adapted:
            self._lora_forward(layer, x, N)
        if y.grad:
            g = self._operand("grad_output", (M, N), f"{y.name}:grad")
            if adapted:
                self._lora_backward(layer, x, N, g)
            if x.grad:
                self._gemm("grad_input", layer, g, self._operand("weight", (N, K), w.tensor), M, K, N)
            self._train_weight(layer, x, N, g)
            self._quantize("grad_input", layer, g.tensor, M * N)
        return y

    def convolution(self, layer: str, x: Tensor, out_channels: int, kernel: int, in_hw: int, stride: int = 1) -> Tensor:
        """A frozen square Conv2d with padding kernel // 2; `x` has in_hw**2 rows an image. Returns the output."""
        out_hw = in_hw // stride
        images = x.rows // in_hw**2
        taps, rows = kernel**2, images * out_hw**2
        trained = self.method != "lora"
        y = Tensor(f"{layer}:y", rows, out_channels, x.grad or trained)
        geometry = Convolution(
            in_channels=x.features,
            out_channels=out_channels,
            kernel=(kernel, kernel),
            in_spatial=(in_hw, in_hw),
            out_spatial=(out_hw, out_hw),
            stride=(stride, stride),
            padding=(kernel // 2, kernel // 2),
        )
        K, N = taps * x.features, out_channels
        extra = {"operation": "conv2d", "convolution": geometry}
        w = self._operand("weight", (K, N), f"{layer}.weight")
        g = self._operand("grad_output", (rows, N), f"{y.name}:grad")
        self._quantize("output", layer, x.name, x.rows * x.features)
        self._gemm("output", layer, self._x(x), w, rows, N, K, **extra)
        if x.grad:
            self._gemm("grad_input", layer, g, w, rows, x.features, taps * N, **extra)
        if self.method == "full":
            self._gemm("grad_weight", layer, self._x(x), g, K, N, rows, **extra)
        if y.grad:
            self._train_scales(layer, rows, N)
            self._quantize("grad_input", layer, g.tensor, rows * N)
        self.trained_parameters += {"lora": 0, "full": K * N, "scales": N}[self.method]
        return y

    def attention(self, layer: str, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """softmax(Q K^T) V over `heads` heads; rows of q, k, v are tokens of one image."""
        T, S, D = q.rows, k.rows, q.features // heads
        y = Tensor(f"{layer}:attended", T, q.features, q.grad or k.grad or v.grad)
        Q, Kt, V = (self._operand(role, (t.rows, D), t.name) for role, t in (("query", q), ("key", k), ("value", v)))
        P = self._operand("probabilities", (T, S), f"{layer}:probabilities")
        many = {"batch": heads, "operation": "attention_product"}
        self._gemm("output", f"{layer}.scores", Q, Kt, T, S, D, **many)
        self.vector("softmax", layer, heads * T * S, y.grad)
        self._gemm("output", f"{layer}.values", P, V, T, D, S, **many)
        if y.grad:
            dO = self._operand("grad_output", (T, D), f"{y.name}:grad")
            dS = self._operand("grad_scores", (T, S), f"{layer}:grad_scores")
            if k.grad:
                self._gemm("grad_input", f"{layer}.scores.key", dS, Q, S, D, T, **many)
            if q.grad:
                self._gemm("grad_input", f"{layer}.scores.query", dS, Kt, T, D, S, **many)
            if v.grad:
                self._gemm("grad_input", f"{layer}.values.value", P, dO, S, D, T, **many)
            self._gemm("grad_input", f"{layer}.values.probabilities", dO, V, T, S, D, **many)
        return y

    def vector(self, kind: str, layer: str, elements: int, grad: bool) -> None:
        """Element-wise or row-wise float work, and its backward where it has one."""
        self.forward.append(Event("vector", "output", layer, kind=kind, elements=elements))
        if grad:
            self.backward.append(Event("vector", "grad_input", layer, kind=kind, elements=elements))

    def _lora_forward(self, layer: str, x: Tensor, N: int) -> None:
        M, K, r = x.rows, x.features, self.rank
        h = self._operand("hidden", (M, r), f"{layer}:hidden")
        a, b = self._operand("lora_a", (K, r), f"{layer}.lora_A"), self._operand("lora_b", (r, N), f"{layer}.lora_B")
        self._gemm("output", f"{layer}.lora_A", self._x(x), a, M, r, K)
        self._quantize("output", f"{layer}.lora_B", h.tensor, M * r)
        self._gemm("output", f"{layer}.lora_B", h, b, M, N, r)
        self.trained_parameters += r * (K + N)

    def _lora_backward(self, layer: str, x: Tensor, N: int, g: Operand) -> None:
        """Appended last first: `backward` is turned round."""
        M, K, r = x.rows, x.features, self.rank
        h = self._operand("hidden", (r, M), f"{layer}:hidden")
        gh = self._operand("grad_hidden", (M, r), f"{layer}:hidden:grad")
        if x.grad:
            self._gemm("grad_input", f"{layer}.lora_A", gh, self._operand("lora_a", (r, K), f"{layer}.lora_A"), M, K, r)
        self._gemm("grad_weight", f"{layer}.lora_A", self._x(x), gh, K, r, M)
        self._quantize("grad_input", f"{layer}.lora_A", gh.tensor, M * r)
        self._gemm("grad_weight", f"{layer}.lora_B", h, g, r, N, M)
        self._gemm("grad_input", f"{layer}.lora_B", g, self._operand("lora_b", (N, r), f"{layer}.lora_B"), M, r, N)

    def _train_weight(self, layer: str, x: Tensor, N: int, g: Operand) -> None:
        if self.method == "full":
            self._gemm("grad_weight", layer, self._x(x), g, x.features, N, x.rows)
            self.trained_parameters += x.features * N
        elif self.method == "scales":
            self._train_scales(layer, x.rows, N)
            self.trained_parameters += N

    def _train_scales(self, layer: str, rows: int, N: int) -> None:
        """dL/ds per output channel: a product and a sum over every output element."""
        if self.method == "scales":
            self.backward.append(Event("vector", "grad_weight", layer, kind="scale_gradient", elements=rows * N))

    def _quantize(self, pass_name: str, layer: str, tensor: str, elements: int) -> None:
        """A tensor is quantized once a step and pass; nothing is where the step is unquantized."""
        if self.bits < 16 and (pass_name, tensor) not in self._quantized:
            self._quantized.add((pass_name, tensor))
            event = Event("vector", "quantize", layer, kind="quantize", elements=elements)
            (self.forward if pass_name == "output" else self.backward).append(event)

    def _gemm(
        self, pass_name: str, layer: str, left: Operand, right: Operand, M: int, N: int, K: int, **rest: Any
    ) -> None:
        event = gemm_event(pass_name, layer, left, right, M=M, N=N, K=K, **rest)
        (self.forward if pass_name == "output" else self.backward).append(event)

    def _operand(self, role: str, shape: tuple[int, ...], tensor: str) -> Operand:
        return Operand(role, shape, f"int{self.bits}" if self.bits < 16 else "float16", self.bits, tensor)

    def _x(self, x: Tensor) -> Operand:
        return self._operand("input", (x.rows, x.features), x.name)
