"""Which vector work hides beside which products: each piece beside those of its own part of the network.

The lanes are one resource. A product keeps them busy while its results are requantized; what is left of its time may
hold fused vector work of the same layer, or of a module around it. An attention's softmax hides beside that attention's
products of the same pass and nothing else. What does not fit is time of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from intaglio.accelerator.dataflow import Float

Place = tuple[str, ...]


class LaneTree:
    """The places of a step's products and vector work, as a tree: parents come after their children."""

    def __init__(self, products: Sequence[Place], work: Sequence[Place]):
        with_products = {place[:n] for place in products for n in range(len(place) + 1)}
        ordered = sorted(with_products, key=len, reverse=True)
        node = {place: i for i, place in enumerate(ordered)}
        self._parent = np.array([node[place[:-1]] if place else -1 for place in ordered])
        self._of_product = np.array([node[place] for place in products], dtype=np.int64)
        self._of_work = np.array([node[_nearest(place, with_products)] for place in work], dtype=np.int64)

    def exposed(self, free_cycles: Float, work_cycles: Float) -> Float:
        """Cycles of each piece of work that fit beside no product.

        Args:
            free_cycles: of each product, its time less what its own requantization takes from the lanes.
            work_cycles: of each piece on all lanes; 0 for what does not run beside the array.
        """
        nodes = len(self._parent)
        free = np.bincount(self._of_product, free_cycles, minlength=nodes)
        asked = np.bincount(self._of_work, work_cycles, minlength=nodes)
        left_over = np.zeros(nodes)
        for i, parent in enumerate(self._parent):
            left_over[i] = max(0.0, asked[i] - free[i])
            if parent >= 0:
                free[parent] += max(0.0, free[i] - asked[i])
        share = np.divide(left_over, asked, out=np.zeros(nodes), where=asked > 0)
        return work_cycles * share[self._of_work]


def _nearest(place: Place, with_products: set[Place]) -> Place:
    """The place itself, or the innermost one around it that has products."""
    while place not in with_products:
        place = place[:-1]
    return place
