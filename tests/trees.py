"""What it means that two nested dicts of arrays are the same."""

import jax
import numpy as np


def assert_equal(got, want):
    """Same structure, same values."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)
