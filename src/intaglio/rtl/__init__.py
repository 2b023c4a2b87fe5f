"""The array as hardware: a machine in Amaranth that runs the integer GEMMs of a training step, and its Verilog.

`machine.py` is the whole; read it first. Nothing here imports torch or the accelerator model: tests compare with their
definitions. The modules need the extra `intaglio[rtl]`; `docs/rtl.md` draws the machine and says what has no RTL.
"""
