"""A kind of public weights file: one table, the variants it serves, and the parts of a system that it fills.

    parts = FAMILY.from_torch(state, cfg)        # {"mmdit": params}, {"clip": ..., "text": ...}, ...
    state = FAMILY.to_torch(parts, cfg)          # bit for bit what was read

The paths of a table begin with the part. A part may have an `unused` branch: tensors of the public file that
kfjax does not use, kept for the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from kfjax.convert import rules
from kfjax.convert.rules import Rule, Shape, State
from kfjax.nn.module import Params, flatten


class Family(NamedTuple):
    """One table and the variants it serves.

    Attributes:
      name: of the family.
      telltale: a key that all files of the family have, and no others.
      configs: variant -> configuration.
      table, shapes: configuration -> rules, and shapes of the parts they fill.
      files: variant -> name of the public file.
      inside: key of the state dict in the public file; "" where the file is the state dict.
      read: (state dict of the file, configuration) -> what the table converts of it.
      constants: configuration -> tensors of the file that are no parameters.
      elsewhere: paths of parameters that come from another file.
    """

    name: str
    telltale: str
    configs: Mapping[str, Any]
    table: Callable[[Any], list[Rule]]
    shapes: Callable[[Any], Params]
    files: Callable[[str], str]
    inside: str = ""
    read: Callable[[State, Any], State] = lambda state, cfg: state
    constants: Callable[[Any], State] = lambda cfg: {}
    elsewhere: Collection[str] = ()

    def from_torch(self, state: Mapping[str, np.ndarray], cfg: Any) -> dict[str, Params]:
        """{part: parameters} of a public state dict, dtypes kept.

        Raises:
          ValueError: names every missing, unused and misshapen key at once, or what `read` refuses.
        """
        return rules.to_jax(self.read(dict(state), cfg), self.table(cfg), self.shapes(cfg))

    def to_torch(self, parts: Mapping[str, Params], cfg: Any) -> State:
        """The public state dict: the exact inverse of `from_torch`.

        Raises:
          ValueError: parameters of another tree.
        """
        flat = {path: value for path, value in flatten(dict(parts)).items() if path not in self.elsewhere}
        return rules.to_torch(flat, self.table(cfg)) | self.constants(cfg)

    def layout(self, variant: str) -> dict[str, Shape]:
        """{key: shape} of the public file, without its constants."""
        cfg = self.configs[variant]
        return rules.torch_shapes(self.shapes(cfg), self.table(cfg))


def without(*beginnings: str) -> Callable[[State, Any], State]:
    """A `Family.read` that leaves out the keys with these beginnings."""
    return lambda state, cfg: {key: value for key, value in state.items() if not key.startswith(beginnings)}
