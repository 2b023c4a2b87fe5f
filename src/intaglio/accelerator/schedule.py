"""Rewrites of a step that a scheduler may choose: attention that stays on chip, and products packed by a shared
operand."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from intaglio.accelerator.cost import Tiler
from intaglio.accelerator.dataflow import Int
from intaglio.accelerator.workload import Label, Products, Workload, products_of


@dataclass(frozen=True)
class Prepared:
    """A step, ready to be costed on many designs.

    products: the step's rows, then one row a packed group; `group_of` says in which group a row is, -1 for none.
    """

    workload: Workload
    products: Products
    labels: tuple[Label, ...]
    group_of: Int
    groups: int

    @cached_property
    def _unique(self) -> tuple[Products, Int]:
        return self.products.unique()

    @cached_property
    def tiler(self) -> Tiler:
        return Tiler(self._unique[0])

    @property
    def inverse(self) -> Int:
        """For each row, its distinct product."""
        return self._unique[1]

    @cached_property
    def distinct_names(self) -> list[str]:
        """A layer's name for each distinct product, for messages."""
        names = [""] * len(self._unique[0])
        for row in range(len(self.labels) - 1, -1, -1):
            names[self.inverse[row]] = self.labels[row].layer
        return names

    @cached_property
    def vector(self) -> tuple[tuple[str, ...], Int]:
        """The kinds of vector work in this step, and the kind of each row."""
        kinds = tuple(sorted({label.kind for label in self.workload.vector_labels}))
        index = [kinds.index(label.kind) for label in self.workload.vector_labels]
        return kinds, np.array(index, dtype=np.int64)

    @property
    def rows(self) -> int:
        """Rows of the step itself, packed groups not counted."""
        return len(self.labels)


def prepare(workload: Workload, fused_attention: bool = False) -> Prepared:
    """Find the groups that could be packed, and rewrite attention where it is to stay on chip."""
    products, labels = workload.products, workload.labels
    if fused_attention:
        products, labels = _fuse_attention(products, labels)
    members: dict[tuple[str, int, int], list[int]] = defaultdict(list)
    for row, label in enumerate(labels):
        if label.shared and products.batch[row] == 1 and products.count[row] == 1:
            members[label.shared, int(products.M[row]), int(products.K[row])].append(row)
    group_of = np.full(len(labels), -1)
    packed = []
    for rows in members.values():
        if len(rows) > 1:
            group_of[rows] = len(packed)
            packed.append(_packed_row(products, rows))
    if packed:
        products = _concatenate(products, products_of(packed))
    return Prepared(workload, products, labels, group_of, len(packed))


def _packed_row(p: Products, rows: list[int]) -> dict[str, int]:
    """`X [W0 A ...]`: the left operand once, the right operands side by side."""
    first = rows[0]
    return {
        "M": int(p.M[first]),
        "K": int(p.K[first]),
        "N": int(p.N[rows].sum()),
        "left_bits": int(p.left_bits[rows].max()),
        "right_bits": int(p.right_bits[rows].max()),
        "left_on_chip": int(p.left_on_chip[rows].min()),
        "result_on_chip": int(p.result_on_chip[rows].min()),
    }


def _fuse_attention(p: Products, labels: tuple[Label, ...]) -> tuple[Products, tuple[Label, ...]]:
    """Scores and probabilities (T x S a head) never leave the chip; the backward pass computes the scores once more."""
    attention = np.array([label.operation == "attention_product" for label in labels])
    scores = attention & np.array([label.layer.endswith((".scores", ".values.probabilities")) for label in labels])
    left_is_scores = attention & ~scores
    p = replace(p, left_on_chip=p.left_on_chip | left_is_scores, result_on_chip=p.result_on_chip | scores)
    backward = any(label.pass_name == "grad_input" for label in labels)
    again = [i for i, label in enumerate(labels) if scores[i] and label.pass_name == "output" and backward]
    if not again:
        return p, labels
    extra = tuple(replace(labels[i], layer=f"{labels[i].layer} (again)", pass_name="grad_input") for i in again)
    return _concatenate(p, p.take(again)), (*labels, *extra)


def _concatenate(p: Products, q: Products) -> Products:
    return Products(**{name: np.concatenate([getattr(p, name), getattr(q, name)]) for name in p.__dataclass_fields__})
