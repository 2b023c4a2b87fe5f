"""A model of an accelerator that replays a training step: cycles, traffic, energy, area. Never imports torch.

`workload` what is run, `hardware` on what; `dataflow` cycles of a product (`array_simulator` is their definition),
`tiling` tiles and traffic, `cost` the choice of a mapping, `schedule` packing and attention, `simulate` the step.
`attribution`, `comparison`, `exploration` ask questions of it; `report`, `plots`, `page` show the answers.
"""
