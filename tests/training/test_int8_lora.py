"""`int8_lora` through the training loop."""

import torch


def test_stochastic_rounding_survives_resuming_and_checkpointed_blocks(resumed):
    """The dither is a function of the gradient: a resumed run, and blocks that run twice, round in the same way."""
    options = {
        "method": "int8_lora",
        "rank": 2,
        "scale": "power_of_two",
        "rounding": "stochastic",
        "targets": ("to_q", "to_v"),
    }
    whole, went_on = resumed(4, of_first={"gradient_checkpointing": True}, **options)
    assert whole
    torch.testing.assert_close(went_on, whole, rtol=0, atol=0)
