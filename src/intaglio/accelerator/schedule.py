"""Rewrites of a step that a scheduler may choose: attention that stays on chip, and products packed by a shared
operand."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from intaglio.accelerator.dataflow import Int
from intaglio.accelerator.lanes import LaneTree
from intaglio.accelerator.mapping import Tiler
from intaglio.accelerator.products import Products, products_of
from intaglio.accelerator.workload import Label, Workload

ATTENTION_PART = re.compile(r"\.(scores|values)(\.(query|key|value|probabilities))?$")


@dataclass(frozen=True)
class Prepared:
    """A step, ready to be costed on many designs.

    products: the step's rows, then one row a packed group; `group_of` says in which group a row is, -1 for none.
    labels, vector_labels: of the rows of the step, with what the schedule does once more.
    """

    workload: Workload
    products: Products
    labels: tuple[Label, ...]
    vector_labels: tuple[Label, ...]
    vector_elements: Int
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
        kinds = tuple(sorted({label.kind for label in self.vector_labels}))
        index = [kinds.index(label.kind) for label in self.vector_labels]
        return kinds, np.array(index, dtype=np.int64)

    @cached_property
    def lanes(self) -> LaneTree:
        """Which products each piece of vector work may run beside."""
        return LaneTree([place_of(label) for label in self.labels], [place_of(label) for label in self.vector_labels])

    @property
    def rows(self) -> int:
        """Rows of the step itself, packed groups not counted."""
        return len(self.labels)


def attention_of(layer: str) -> str:
    """The layer whose attention a product belongs to: `attn1.scores.query` -> `attn1`."""
    return ATTENTION_PART.sub("", layer)


def place_of(label: Label) -> tuple[str, ...]:
    """Where work stands in the network. An attention's products and softmax have a place of their own in each pass."""
    layer = attention_of(label.layer) if label.operation == "attention_product" else label.layer
    path = tuple(layer.split("."))
    if label.operation == "attention_product" or label.kind == "softmax":
        return (*path, "attention, forward" if label.pass_name == "output" else "attention, backward")
    return path


def prepare(workload: Workload, fused_attention: bool = False) -> Prepared:
    """Find the groups that could be packed, and rewrite attention where it is to stay on chip."""
    products, labels = workload.products, workload.labels
    vector_labels, elements = workload.vector_labels, workload.vector_elements
    if fused_attention:
        products, labels, again = _fuse_attention(products, labels)
        for i in again:  # the probabilities are made once more, from the scores made once more
            vector_labels = (
                *vector_labels,
                replace(labels[i], layer=attention_of(labels[i].layer), operation="vector", kind="softmax"),
            )
            count = int(products.M[i] * products.N[i] * products.batch[i] * products.count[i])
            elements = np.append(elements, count)
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
        products = products.join(products_of(packed))
    return Prepared(workload, products, labels, vector_labels, elements, group_of, len(packed))


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
        "right_on_chip": int(p.right_on_chip[rows].min()),
        "result_on_chip": int(p.result_on_chip[rows].min()),
        "left_stored": int(p.left_stored[first]),
        "right_stored": int(p.right_stored[rows].max()),
    }


def _fuse_attention(p: Products, labels: tuple[Label, ...]) -> tuple[Products, tuple[Label, ...], list[int]]:
    """Scores and probabilities (T x S a head) never leave the chip; each backward pass computes them once more.

    Returns the rows with those that are computed again at the end, and which rows those are.
    """
    attention = np.array([label.operation == "attention_product" for label in labels])
    scores = attention & np.array([label.layer.endswith((".scores", ".values.probabilities")) for label in labels])
    backward = attention & np.array([label.pass_name != "output" for label in labels])
    there = np.array([label.layer.endswith((".values.value", ".scores.query", ".scores.key")) for label in labels])
    p = replace(
        p,
        attention=np.where(attention, 1 + backward, p.attention),
        left_on_chip=p.left_on_chip | (attention & ~scores),
        result_on_chip=p.result_on_chip | scores,
        right_on_chip=p.right_on_chip | (attention & there),
    )
    again = _scores_again(p, labels)
    if not again:
        return p, labels, []
    extra = p.take(list(again))
    extra = replace(extra, count=np.array(list(again.values())), attention=np.full(len(again), 2))
    names = tuple(replace(labels[i], layer=labels[i].layer, pass_name="grad_input", again=True) for i in again)
    return p.join(extra), (*labels, *names), list(range(len(labels), len(labels) + len(again)))


def _scores_again(p: Products, labels: tuple[Label, ...]) -> dict[int, int]:
    """Row of each attention's forward scores -> how often its backward pass runs.

    A checkpoint makes the forward pass run more often, not the backward one.
    """
    forward: dict[str, int] = {}
    asked: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for i, label in enumerate(labels):
        if label.operation != "attention_product":
            continue
        name = attention_of(label.layer)
        if label.pass_name != "output":
            asked[name][label.layer] += int(p.count[i])
        elif label.layer.endswith(".scores"):
            forward.setdefault(name, i)
    return {forward[name]: max(counts.values()) for name, counts in asked.items() if name in forward}
