"""The base model that ships with intaglio: its data, its training, its rebuild from nothing.

Not part of the installed package. `python -m pretrain` rebuilds everything; see README.md here.
"""
