"""Every operation of a real training step: `schema` (what an event is, standard library only) and its writers and
readers."""
