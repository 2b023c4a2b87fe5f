"""What autograd keeps for the backward pass."""

import torch


def saved_bytes(run, own=()):
    """Bytes of distinct storages that autograd keeps while `run()` runs, those of `own` left out; and its result.

    Args:
        own: tensors that are there anyway, such as a layer's parameters.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in own}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = run()
    return sum(size for address, size in kept.items() if address not in known), result
