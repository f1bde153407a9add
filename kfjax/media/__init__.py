"""Video and sound files: what is in them, their frames and samples, and writing them back.

The only code that touches PyAV (FFmpeg's libraries), and only when a function is called. Rules that hold everywhere:

* Time 0 is the presentation time of the first shown picture; sound is placed against it.
* A video is decoded in one pass and each frame is resized as it leaves the decoder, so that memory stays small.
* A file is written under a temporary name beside its final one, and renamed when complete.
* Everything wrong with a file ends in a `MediaError`: what was got, what was expected, what to do.
"""

from kfjax.media.frames import FrameSpec, Shown, frames_in_order, frames_in_windows, read_frames
from kfjax.media.probe import MIN_SECONDS, MediaError, MediaInfo, probe
from kfjax.media.sound import read_audio, through_codec
from kfjax.media.suffixes import FILM_SUFFIXES, VIDEO_SUFFIXES, is_clip
from kfjax.media.write import check_output, mux, output_suffix, write_video, write_wav

__all__ = [
    "FILM_SUFFIXES",
    "MIN_SECONDS",
    "VIDEO_SUFFIXES",
    "FrameSpec",
    "MediaError",
    "MediaInfo",
    "Shown",
    "check_output",
    "frames_in_order",
    "frames_in_windows",
    "is_clip",
    "mux",
    "output_suffix",
    "probe",
    "read_audio",
    "read_frames",
    "through_codec",
    "write_video",
    "write_wav",
]
