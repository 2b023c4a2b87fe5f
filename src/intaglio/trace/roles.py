"""Which product of a training step this is: its pass, layer and operands' roles, from where the operands come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from intaglio.trace.operations import Gemm
from intaglio.trace.tensors import Known


@dataclass(frozen=True, slots=True)
class Part:
    """A product's place in the step. `roles` are those of left and right, as the operation has them."""

    pass_name: str
    layer: str
    roles: tuple[str, str]
    operation: str


@dataclass(frozen=True, slots=True)
class Forward:
    """A product of the forward pass, as its backward pass needs it: names of the operands' values."""

    part: Part
    left: str
    right: str
    N: int
    K: int
    factors: tuple[str, str] | None = None  # layers of the two weights of a pair that is merged


def forward_part(product: Gemm, left: Known, right: Known, layer: str) -> Part:
    """A weight makes the GEMM its layer's; two activations are an attention's, two weights a pair that is merged."""
    if left.weight is None and right.weight is None and left.origin == right.origin == "constant":
        return Part("output", layer, ("input", "weight"), product.operation)
    if left.weight is not None and right.weight is not None:
        return Part("output", left.weight.layer, (left.weight.role, right.weight.role), product.operation)
    if left.weight is None and right.weight is None:
        second = left.probabilities
        roles = ("probabilities", "value") if second else ("query", "key")
        return Part("output", layer + (".values" if second else ".scores"), roles, "attention_product")
    weight = right.weight or left.weight
    assert weight is not None
    of_input = "hidden" if weight.role == "lora_b" else "input"
    roles = (weight.role, of_input) if right.weight is None else (of_input, weight.role)
    return Part("output", weight.layer, roles, product.operation)


def backward_part(
    product: Gemm, left: Known, right: Known, names: tuple[str, str], made: Sequence[Forward], layer: str
) -> Part:
    """With a weight, the gradient of an input; with a saved activation, that of a weight, or one of attention's.

    Args:
        names: of the operands' values.
        made: what the node that autograd runs did in the forward pass.
        layer: of that node.
    """
    if product.pass_name == "grad_weight" or (left.weight is None and right.weight is None):
        return _of_two_activations(product, left, right, names, made, layer)
    weight = right.weight or left.weight
    assert weight is not None
    factors = next((m.factors for m in made if m.factors is not None and weight.layer in m.factors), None)
    if factors is not None:  # the gradient of one factor of a merged pair is made with the other
        roles = (weight.role, "grad_output") if right.weight is None else ("grad_output", weight.role)
        return Part("grad_weight", factors[1 - factors.index(weight.layer)], roles, product.operation)
    of_grad = "grad_hidden" if weight.role == "lora_a" else "grad_output"
    roles = (weight.role, of_grad) if right.weight is None else (of_grad, weight.role)
    return Part("grad_input", weight.layer, roles, product.operation)


def _of_two_activations(
    product: Gemm, left: Known, right: Known, names: tuple[str, str], made: Sequence[Forward], layer: str
) -> Part:
    saved_is_left = _saved_is_left(left, right, names, made)
    saved = names[0 if saved_is_left else 1]
    attention = next((m for m in made if m.part.operation == "attention_product"), None)
    if attention is not None:
        return _of_attention(attention, saved, saved_is_left)
    shape = {product.M, product.N}
    weights = [m for m in made if {m.K, m.N} == shape] or list(made)
    # What was quantized anew for this pass has another name: the last product's input, H of a low-rank pair.
    found = next((m for m in weights if saved in (m.left, m.right)), weights[-1] if weights else None)
    if found is None:  # made by an operator that was not understood
        return Part("grad_weight", layer, _order(saved_is_left, "input", "grad_output"), product.operation)
    if found.K != found.N and {found.K, found.N} == shape:
        saved_is_left = product.M == found.K  # the gradient of a weight is (K, N): its rows tell the input
    weight_role = next((r for r in found.part.roles if r in ("weight", "lora_a", "lora_b")), "weight")
    of_input = "hidden" if weight_role == "lora_b" else "input"
    of_grad = "grad_hidden" if weight_role == "lora_a" else "grad_output"
    return Part("grad_weight", found.part.layer, _order(saved_is_left, of_input, of_grad), product.operation)


def _of_attention(forward: Forward, saved: str, saved_is_left: bool) -> Part:
    """The four products of attention's backward pass: what was saved says whose gradient it is."""
    found = {
        (".values", True): (".value", "probabilities", "grad_output"),
        (".values", False): (".probabilities", "value", "grad_output"),
        (".scores", True): (".key", "query", "grad_scores"),
        (".scores", False): (".query", "key", "grad_scores"),
    }
    suffix, *roles = found[forward.part.layer[-len(".scores") :], saved == forward.left]
    return Part("grad_input", forward.part.layer + suffix, _order(saved_is_left, *roles), "attention_product")


def _saved_is_left(left: Known, right: Known, names: tuple[str, str], made: Sequence[Forward]) -> bool:
    saved = {name for m in made for name in (m.left, m.right)}
    if (names[0] in saved) != (names[1] in saved):
        return names[0] in saved
    return left.origin == "forward" or right.origin == "backward"


def _order(saved_is_left: bool, saved: str, grad: str) -> tuple[str, str]:
    return (saved, grad) if saved_is_left else (grad, saved)
