"""State dicts of a known layout filled at random, and what an exact round trip means."""

import numpy as np

from kfjax.convert.rules import torch_shapes


def random_state(family, cfg, dtype=np.float32):
    """A state dict as the public file of `cfg` has it; `family` is a module of kfjax.convert."""
    rng = np.random.default_rng(0)
    layout = torch_shapes(family.shapes(cfg), family.table(cfg))
    return {key: np.asarray(rng.standard_normal(shape)).astype(dtype) for key, shape in layout.items()}


def assert_same_bytes(got, want):
    """The same keys, shapes, types and bits, written as a file needs them."""
    assert got.keys() == want.keys()
    for key, value in want.items():
        assert (got[key].shape, got[key].dtype) == (value.shape, value.dtype), key
        assert got[key].tobytes() == value.tobytes(), key
        assert got[key].flags.c_contiguous, key
