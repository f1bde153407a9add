"""A process that is killed between two renames, played by an exception that nothing catches."""

import os
from contextlib import contextmanager, nullcontext

import pytest


class Killed(BaseException):
    pass


@contextmanager
def killed_after(survived, of, monkeypatch):
    """The block renames `of` times; only `survived` of these happen."""
    done = []

    def replace(source, target, real=os.replace):
        if len(done) == survived:
            raise Killed
        done.append(target)
        real(source, target)

    with monkeypatch.context() as patch, pytest.raises(Killed) if survived < of else nullcontext():
        patch.setattr(os, "replace", replace)
        yield
