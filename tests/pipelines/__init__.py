"""A package, so that its conftest is `pipelines.conftest`: other tests import theirs as `conftest`."""
