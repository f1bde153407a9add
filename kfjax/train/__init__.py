"""Training. The package itself can be called: `kfjax.train("configs/flow.py:runlocal", "runs/first")`."""

from __future__ import annotations

import sys
from types import ModuleType


class _Callable(ModuleType):
    """The public function has the package's name, and importing the package must not hide it."""

    def __call__(self, *args, **named):
        """See `kfjax.train.run.train`."""
        from kfjax.train.run import train

        return train(*args, **named)


sys.modules[__name__].__class__ = _Callable
