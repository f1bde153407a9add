"""Where an output goes: into a file that appears when it is complete, or into one that is followed while it grows."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kfjax.media.probe import MediaError

Output = str | os.PathLike | BinaryIO


class Pipe:
    """A binary file that takes bytes in order: nothing is changed later, nothing is held back.

    Attributes:
      error: what its last write ended in; FFmpeg does not pass it on each time.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            self.error = error
            raise
        return len(data)


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path in the same folder: renamed to `path` when the block succeeds, else removed."""
    from av.error import FFmpegError

    path = Path(path)
    temporary = temporary_name(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except (OSError, FFmpegError) as error:
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def growing(output: Output) -> Iterator[Path | Pipe]:
    """Gives the path itself, or the file as a `Pipe`; what is written stays when the block fails."""
    from av.error import FFmpegError

    place = Path(output) if isinstance(output, str | os.PathLike) else Pipe(output)
    try:
        yield place
    except (OSError, FFmpegError) as error:
        if isinstance(place, Pipe):
            raise unwritable("the output", place.error or error) from error
        raise unwritable(place, error) from error


def target_of(output: Output, live: bool):
    """`growing` where the output is live, else `replacing`. ValueError for a file object that isn't live."""
    if live:
        return growing(output)
    if not isinstance(output, str | os.PathLike):
        raise ValueError("the output: got a file object, expected a path; or pass live=True")
    return replacing(output)


def temporary_name(path: Path) -> Path:
    return path.with_name(f".{uuid.uuid4().hex[:12]}{path.suffix.lower()}")


def unwritable(output: object, error: Exception) -> MediaError:
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, BrokenPipeError):
        return MediaError(f"{output}: can't be written further ({reason}); what read it has ended")
    return MediaError(f"{output}: can't be written ({reason}); check the folder, its free space and its permissions")
