"""Which pixels of one image meet under the taps of another."""

from intaglio.quantizers.window import Window

__all__ = ["Window"]
