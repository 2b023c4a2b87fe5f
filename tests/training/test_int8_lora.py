"""`int8_lora` through the training loop."""


def test_stochastic_rounding_survives_resuming_and_checkpointed_blocks(resumed):
    """The dither is a function of the gradient: a resumed run, and blocks that run twice, round in the same way."""
    options = {
        "method": "int8_lora",
        "rank": 2,
        "scale": "power_of_two",
        "rounding": "stochastic",
        "targets": ("to_q", "to_v"),
    }
    resumed(4, of_first={"gradient_checkpointing": True}, **options)
