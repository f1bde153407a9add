"""Animated WebP, which FFmpeg doesn't read: the same pictures at the same times as an animated PNG, which it does."""

import functools
import io
import os

#: Of all pictures together; a WebP of some bytes can promise any number.
_MOST_PIXELS = 500_000_000


@functools.lru_cache(maxsize=1)
def as_png(path: str, changed: tuple) -> bytes:
    """The animation at `path`, an animated PNG without loss; `changed`: its `stamp`.

    Raises:
      ValueError: damaged, or too large.
    """
    from PIL import Image
    from PIL.WebPImagePlugin import WebPImageFile

    del changed  # only part of the cache's key
    pictures, durations, made = [], [], io.BytesIO()
    try:
        with Image.open(path, formats=["WEBP"]) as image:
            assert isinstance(image, WebPImageFile)  # the only format that it may be
            if image.n_frames * image.width * image.height > _MOST_PIXELS:
                raise ValueError(f"{image.n_frames} pictures of {image.width} x {image.height} are too many")
            for k in range(image.n_frames):
                image.seek(k)
                pictures.append(image.convert("RGBA"))
                durations.append(image.info["duration"])
        how = {"format": "PNG", "save_all": True, "compress_level": 1}
        pictures[0].save(made, append_images=pictures[1:], duration=durations, **how)
    except (OSError, EOFError, SyntaxError, KeyError, Image.DecompressionBombError) as error:
        raise ValueError(f"{error}") from error
    return made.getvalue()


def stamp(path: str | os.PathLike) -> tuple:
    """What changes when the file does: time of the last change and size; () for a file that isn't there."""
    try:
        stat = os.stat(path)
    except OSError:
        return ()
    return stat.st_mtime_ns, stat.st_size
