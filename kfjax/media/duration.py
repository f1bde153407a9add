"""How long the sound for a clip is."""

import os

from kfjax import rates
from kfjax.media.probe import MediaError, probe


def sound_seconds(path: str | os.PathLike, duration: float | None) -> float:
    """Of the sound for a clip: `duration`, else the length of its picture.

    Raises:
      MediaError: a file that can't be read, or has no picture; a ValueError too.
      ValueError: a duration that is impossible or longer than the picture; a clip that is too long.
    """
    info = probe(path)
    if not info.has_video:
        raise MediaError(f"{path}: has sound but no picture; give a video, or a prompt alone")
    return excerpt_seconds(info.seconds, duration, str(path))


def excerpt_seconds(available: float, duration: float | None, name: str) -> float:
    """The part of `available` seconds that is asked for. Raises ValueError as `sound_seconds`."""
    if duration is None:
        if available > rates.LONGEST_SECONDS:
            most = f"at most {rates.LONGEST_SECONDS:g} s are possible"
            raise ValueError(f"{name}: is {available:.1f} s long, {most}; give a duration or cut it")
        return available
    rates.check_seconds(duration, rates.LONGEST_SECONDS)
    if duration > available + 1e-3:
        raise ValueError(f"duration: got {duration:g} s, but {name} has {available:.3f} s; ask for that at most")
    return min(available, duration)
