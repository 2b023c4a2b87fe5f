"""Record every operation of one real training step: what torch dispatches while it runs, below autograd.

>>> trace = record(lambda: loss(model, batch).backward())

The model is not edited, and nothing is computed twice. Meta and fake tensors do: shapes need no weights and no time.

How an operation finds its name
- A weight names its layer: parameters are known by storage, and stay known through casts, transposes and
  dequantization. What else runs in a module goes by the module's name.
- In the backward pass autograd says which node it runs, and a node has the number of the operation that made it.
- Whatever is computed from weights alone (casts, dequantization) is no operation of the step, unless it is a product;
  one that needs a float copy of integer codes says so by one `dequantize`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from intaglio.errors import UserError
from intaglio.trace import operations
from intaglio.trace.operations import Gemm, Vector, vector_kind
from intaglio.trace.roles import Forward, Part, backward_part, forward_part
from intaglio.trace.schema import ROLE_ORDER, Convolution, Event, Header, Operand, Trace, gemm_event
from intaglio.trace.tensors import Known, Tensors, Weight, bits_of, dtype_name, module_name, tensors_in

EPILOGUE = ("mul", "add")
NO_BACKWARD = "no backward pass was recorded"
_IN_KERNEL = Known("", "forward")


def record(step: Callable[[], Any], *, model: str = "", method: str = "", **facts: Any) -> Trace:
    """The trace of one training step.

    Args:
        step: runs the step: the model's call, the loss, `backward()`, and the optimizer's `step()` if it is to be
            costed. Real, meta or fake tensors.
        model, method, facts: for the trace's header.

    Raises:
        UserError: the step ran no product.
    """
    with Recorder() as recorder:
        step()
    return recorder.trace(model=model, method=method, **facts)


class Recorder(TorchDispatchMode):
    """A context in which a step is recorded. Compiled code (`torch.compile`) runs unseen: record the plain model."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self._tensors = Tensors()
        self._modules: list[str] = []  # the calls that are running, outermost first
        self._names: dict[int, str] = {}
        self._layer_of: dict[int, str] = {}  # number of an autograd node -> what made it
        self._made: dict[int, list[Forward]] = {}  # number of an autograd node -> its products
        self._optimizing = False
        self._hooks: list[Any] = []
        self._unknown: dict[str, int] = {}
        self._trained = 0
        self._trainable: set[str] = set()  # names of the values of what is trained

    def trace(self, *, model: str = "", method: str = "", **facts: Any) -> Trace:
        """What was recorded. `facts` go into the header, after those that the recorder knows itself."""
        if not any(event.is_product for event in self.events):
            raise UserError(
                "the step ran no matrix product while it was recorded; run the model, the loss and backward() inside, "
                "and record the model itself, not what torch.compile made of it"
            )
        step = {"trained_parameters": self._trained, "torch": torch.__version__.split("+")[0], **facts}
        if self._unknown:
            step["unknown_operators"] = dict(sorted(self._unknown.items()))
        return Trace(Header(model, method, step), tuple(self._with_reasons()))

    def __enter__(self) -> Recorder:
        self._hooks = [
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module, always_call=True),
            register_optimizer_step_pre_hook(self._enter_optimizer),
            register_optimizer_step_post_hook(self._leave_optimizer),
        ]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*error)

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        if not self._modules and id(module) not in self._names:
            self._add_model(module)
        self._modules.append(self._names.get(id(module), self._modules[-1] if self._modules else ""))

    def _leave_module(self, module: nn.Module, args: Any, out: Any) -> None:
        self._modules.pop()

    def _add_model(self, model: nn.Module) -> None:
        """A model of the step is called for the first time. What is trained has bare names, others their class's."""
        prefix = "" if any(p.requires_grad for p in model.parameters()) else f"{type(model).__name__}."
        trainable = {prefix + n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
        self._trained += sum(trainable.values())
        self._trainable |= set(trainable)
        self._tensors.add_model(model, prefix)
        for name, module in model.named_modules(remove_duplicate=False):
            self._names.setdefault(id(module), module_name(prefix + name))

    def _enter_optimizer(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        elements = sum(p.numel() for p in trained)
        if elements:
            kind = type(optimizer).__name__.lower()
            self.events.append(Event("vector", "optimizer", "", kind=kind, elements=elements))
        self._optimizing = True

    def _leave_optimizer(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._optimizing = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        sources = tensors_in([args, kwargs])
        for tensor in sources:
            self._tensors.known(tensor)  # what is not known yet comes from outside
        out = func(*args, **kwargs)
        if not self._optimizing:
            self._see(func, args, kwargs, sources, out)
        return out

    def _see(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], sources: list[Tensor], out: Any) -> None:
        name: str = func._schema.name
        results = tensors_in(out)
        writes = func._schema.is_mutable
        if not writes and all(self._tensors.seen(t) for t in results):
            return  # views of what is known
        node = torch._C._current_autograd_node()
        backward = node is not None and not self._modules
        number = node._sequence_nr() if backward else torch.autograd._get_sequence_nr() - 1
        layer = self._layer(node, number) if backward else self._modules[-1] if self._modules else ""
        if not backward:
            self._layer_of.setdefault(number, layer)
        known = [self._tensors.known(t) for t in sources]
        handler = operations.handler_of(name)
        found: list[Gemm | Vector] | None = None
        if handler is not None:
            bound = {a.name: a.default_value for a in func._schema.arguments}
            found = list(handler(bound | dict(zip(bound, args, strict=False)) | kwargs, out))
        multiplies = any(isinstance(part, Gemm) for part in found or ())
        random = torch.Tag.nondeterministic_seeded in func.tags
        computed = self._name_results(name, args, sources, known, results, writes, backward, multiplies, random)
        if _rounds(name, sources, results):
            self._end_of_quantizer(layer, results[0].numel())
        if not computed and operations.counts_constants(name):
            self._add_vector("quantize", layer, False, results[0].numel())
        if not computed or _is_epilogue(name, known):
            return
        if found is None:
            self._see_vector(name, layer, backward, known, sources, results)
            return
        for part in found:
            if isinstance(part, Vector):
                self._add_vector(part.kind, layer, backward, part.elements)
            else:
                self._add_product(part, name, layer, backward, number)

    def _layer(self, node: Any, number: int) -> str:
        """Of a node of the backward pass. A parameter's gradient is added up under the parameter's name."""
        variable = getattr(node, "variable", None)
        if variable is not None:
            weight = self._tensors.known(variable).weight
            return weight.layer if weight is not None else ""
        return self._layer_of.get(number, "")

    def _name_results(
        self,
        name: str,
        args: Sequence[Any],
        sources: list[Tensor],
        known: list[Known],
        results: list[Tensor],
        writes: bool,
        backward: bool,
        multiplies: bool,
        random: bool,
    ) -> bool:
        """Tell what the results hold; returns whether the operation is one of the step's.

        What is computed from weights and constants alone is none, but for products: a low-rank pair that is merged is
        multiplied anew in every step. Random numbers are inputs that the step makes for itself.
        """
        same = name in operations.COPIES or _by_one_number(name, args)
        constant = all(k.origin in ("weight", "constant") for k in known)
        weights = [k.weight is not None for k in known]
        given = constant and (random or (multiplies and any(weights) and not all(weights)))
        for tensor in results:
            if given:
                self._tensors.new(tensor, "forward")
            elif same and not writes and sources:
                self._tensors.copy(tensor, sources[0])
            elif constant and name == "aten::cat":
                self._tensors.pack(tensor, sources, args[1] if len(args) > 1 else 0)
            elif constant:
                self._tensors.derive(tensor, sources)
            elif writes or not self._tensors.seen(tensor):
                softmax = vector_kind(name) == "softmax" and not backward
                sums = tensor.dtype == torch.int32 or (vector_kind(name) in EPILOGUE and any(k.sums for k in known))
                self._tensors.new(tensor, "backward" if backward else "forward", probabilities=softmax, sums=sums)
        return multiplies or not (same or constant or name in operations.MOVES)

    def _see_vector(
        self, name: str, layer: str, backward: bool, known: list[Known], sources: list[Tensor], results: list[Tensor]
    ) -> None:
        active = [t for t, k in zip(sources, known, strict=True) if k.origin in ("forward", "backward")]
        elements = max((t.numel() for t in (*active, *results)), default=0)
        if name.partition("::")[0] not in ("aten", "prims", "profiler"):
            self._unknown[name] = self._unknown.get(name, 0) + 1
        self._add_vector(vector_kind(name), layer, backward, elements)

    def _end_of_quantizer(self, layer: str, elements: int) -> None:
        """Float values became INT8 codes: the steps to them, one `quantize`."""
        while self.events and self.events[-1].layer == layer and self.events[-1].kind in operations.QUANTIZER_STEPS:
            self.events.pop()
        self._add_vector("quantize", layer, False, elements)

    def _add_vector(self, kind: str, layer: str, backward: bool, elements: int) -> None:
        if elements:
            pass_name = "quantize" if kind == "quantize" else "grad_input" if backward else "output"
            self.events.append(Event("vector", pass_name, layer, kind=kind, elements=elements))

    def _add_product(self, product: Gemm, name: str, layer: str, backward: bool, number: int) -> None:
        if not product.M * product.N * product.K * product.batch:
            return
        left, right = (_IN_KERNEL if o is None else self._tensors.known(o) for o in (product.left, product.right))
        if sum(length for _, _, length in right.packed) != product.N:
            self._add_one(product, left, right, name, layer, backward, number)
            return
        for weight, label, length in right.packed:  # one product with two weights is a product with each
            part = Known(label, "constant", weight)
            self._add_one(product.columns(length), left, part, name, layer, backward, number)

    def _add_one(
        self, product: Gemm, left: Known, right: Known, name: str, layer: str, backward: bool, number: int
    ) -> None:
        operands = (product.left, product.right)
        names = tuple("" if o is None else self._tensors.name(o) for o in operands)
        assert len(names) == 2
        if right.origin == "constant" and right.weight is not None:
            names = (names[0], right.name)
        if product.roles is not None:
            part = Part(product.pass_name, layer + product.part, product.roles, product.operation)
        elif backward:
            part = backward_part(product, left, right, names, self._made.get(number, ()), layer)
        else:
            part = forward_part(product, left, right, layer)
            N, K = (product.M, product.K) if right.weight is None else (product.N, product.K)
            factors = (left.weight.layer, right.weight.layer) if left.weight and right.weight else None
            self._made.setdefault(number, []).append(Forward(part, *names, N, K, factors))
        self._add_dequantize(part.layer, operands)
        self.events.append(self._event(product, part, names, (left, right), name))

    def _add_dequantize(self, layer: str, operands: tuple[Tensor | None, Tensor | None]) -> None:
        """A float copy of integer codes is made for a product."""
        for operand in operands:
            weight = None if operand is None else self._tensors.known(operand).weight
            if operand is not None and weight is not None and weight.bits and operand.is_floating_point():
                self.events.append(Event("vector", "quantize", layer, kind="dequantize", elements=operand.numel()))

    def _event(self, product: Gemm, part: Part, names: Sequence[str], known: Sequence[Known], source: str) -> Event:
        """The event, its operands in the order of the roles."""
        tensors, (M, N), roles = [product.left, product.right], (product.M, product.N), list(part.roles)
        names, weights = list(names), [k.weight for k in known]
        if ROLE_ORDER[roles[0]] > ROLE_ORDER[roles[1]]:
            M, N = N, M
            for pair in (tensors, roles, names, weights):
                pair.reverse()
        shapes = [(M, product.K), (product.K, N)]
        if product.convolution is not None:
            # Packed codes have no shape of their own.
            shapes = [
                s if t is None or (w is not None and not t.is_floating_point()) else tuple(t.shape)
                for s, t, w in zip(shapes, tensors, weights, strict=True)
            ]
        other = next(t for t in (*tensors, product.result) if t is not None)
        left, right = (
            _operand(role, shape, name, other if tensor is None else tensor, weight)
            for role, shape, name, tensor, weight in zip(roles, shapes, names, tensors, weights, strict=True)
        )
        result = None
        if product.result is not None:
            role = "hidden" if roles[1] == "lora_a" and part.pass_name == "output" else part.pass_name
            result = _operand(role, (M, N), self._tensors.name(product.result), product.result, None)
        geometry = product.convolution
        return gemm_event(
            part.pass_name,
            part.layer,
            left,
            right,
            M=M,
            N=N,
            K=product.K,
            batch=product.batch,
            operation=part.operation,
            convolution=None if geometry is None else Convolution(**asdict(geometry)),
            result=result,
            source=source.replace("::", "."),
        )

    def _with_reasons(self) -> Iterator[Event]:
        """Say of each forward product of a weight which gradients nothing asked for, and why."""
        done = {(e.layer, e.pass_name) for e in self.events if e.is_product}
        backward = any(pass_name in ("grad_input", "grad_weight") for _, pass_name in done)
        for event in self.events:
            if not event.is_product or event.pass_name != "output" or event.operation == "attention_product":
                yield event
                continue
            trainable = event.operands[1].tensor in self._trainable
            skipped = {}
            if (event.layer, "grad_input") not in done:
                skipped["grad_input"] = "the input needs no gradient" if backward else NO_BACKWARD
            if (event.layer, "grad_weight") not in done:
                skipped["grad_weight"] = NO_BACKWARD if trainable else "the weight is frozen"
            yield replace(event, skipped=skipped)


def _operand(role: str, shape: tuple[int, ...], name: str, tensor: Tensor, weight: Weight | None) -> Operand:
    if weight is not None and weight.bits is not None and weight.dtype is not None:
        return Operand(role, shape, weight.dtype, weight.bits, name)
    return Operand(role, shape, dtype_name(tensor), bits_of(tensor.dtype), name)


def _by_one_number(name: str, args: Sequence[Any]) -> bool:
    """A product with a Python number: another scale of the same values."""
    return name in ("aten::mul", "aten::div") and len(args) > 1 and isinstance(args[1], int | float)


def _rounds(name: str, sources: Sequence[Tensor], results: Sequence[Tensor]) -> bool:
    """A cast from float to INT8: the last step of a quantizer."""
    cast = name == "aten::_to_copy" and bool(results) and results[0].dtype == torch.int8
    return cast and sources[0].is_floating_point()


def _is_epilogue(name: str, known: Sequence[Known]) -> bool:
    """Integer sums times a scale, or plus a bias: what a product ends with. A sum of two products is an addition."""
    active = [k for k in known if k.origin in ("forward", "backward")]
    kind = vector_kind(name)
    return any(k.sums for k in active) and (kind == "mul" or (kind == "add" and len(active) == 1))
