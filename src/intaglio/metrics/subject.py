"""Subject fidelity: how near the images are to held-out ones of the subject, laid on the prompt's background."""

from __future__ import annotations

from intaglio.metrics.registry import metric
from intaglio.metrics.scores import mean_other_cosine, mean_pairwise_cosine
from intaglio.metrics.shown import Prompted


@metric(
    "subject",
    title="subject fidelity: mean cosine to the held-out images",
    better="higher",
    range=(-1, 1),
    order=10,
    compared=True,
    second=True,
    ceiling=True,
)
def subject(shown: Prompted) -> float:
    return mean_pairwise_cosine(shown.features, shown.heldout)


@subject.real
def real(shown: Prompted) -> float | None:
    """Of the learned images; where nothing is held out, of each to the others."""
    if shown.all_learned:
        return mean_other_cosine(shown.heldout)
    return None if shown.teaches_style else mean_pairwise_cosine(shown.learned, shown.heldout)
