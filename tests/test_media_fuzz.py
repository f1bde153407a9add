"""Damaged films: whatever bytes are lost or flipped, reading ends in frames and samples or in one line."""

from fractions import Fraction

import av
import numpy as np
import pytest

from kfjax import media
from tests.damage import MEMORY, fuzz, read_copies
from tests.tiny import media_files as files


def steps(path, output):
    """Reads, listens and writes."""
    wave = np.zeros((4410, 2), np.float32)
    return (
        lambda: media.probe(path),
        lambda: media.read_frames(path, [media.FrameSpec(8, 64, "stretch")]),
        lambda: media.read_audio(path, 16000),
        lambda: media.mux(path, wave, 44100, output),
        lambda: media.mux(path, wave, 44100, output, keep_original_gain=1.0),
    )


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Two seconds with reordered pictures, sound, a chapter and subtitles; of the MP4 the first 0.4 s are hidden."""
    folder, made = tmp_path_factory.mktemp("films"), {}
    rng = np.random.default_rng(0)
    for suffix, codec, sound_codec in ((".mp4", "mov_text", "aac"), (".mkv", "subrip", "flac")):
        made[suffix] = folder / f"film{suffix}"
        with av.open(str(made[suffix]), "w") as target:
            film = target.add_stream("libx264", rate=25, width=64, height=64, pix_fmt="yuv420p", options={"g": "12"})
            sound = target.add_stream(sound_codec, rate=44100, layout="stereo")
            words = target.add_mux_stream(codec, time_base=Fraction(1, 1000))
            unit, start = Fraction(1, 1000), -10 if suffix == ".mp4" else 0
            target.set_chapters([{"id": 1, "start": 0, "end": 900, "time_base": unit, "metadata": {"title": "one"}}])
            for k in range(50):
                frame = av.VideoFrame.from_ndarray(files.numbered(k), format="rgb24")
                frame.pts, frame.time_base = k + start, Fraction(1, 25)
                target.mux(film.encode(frame))
            target.mux(film.encode(None))
            wave = rng.uniform(-0.1, 0.1, (2, 2 * 44100)).astype(np.float32)
            if sound_codec == "flac":
                frame = av.AudioFrame.from_ndarray((wave.T * 32767).astype(np.int16).reshape(1, -1), "s16", "stereo")
            else:
                frame = av.AudioFrame.from_ndarray(wave, "fltp", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = 44100, 0, Fraction(1, 44100)
            target.mux(sound.encode(frame))
            target.mux(sound.encode(None))
            packet = av.Packet(b"\0\x05knock" if codec == "mov_text" else b"knock")
            packet.stream, packet.time_base, packet.pts, packet.dts, packet.duration = words, unit, 200, 200, 400
            target.mux(packet)
        media.probe(made[suffix])
    return made


@pytest.mark.parametrize("count", [20, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_damaged_copies(tmp_path, films, suffix, count):
    ends, problems, peak = fuzz("tests.test_media_fuzz", films[suffix], tmp_path, count)
    assert not problems, "\n".join(problems)
    assert len(ends) == count and peak < MEMORY
    kinds = {end for one in ends for end in one}
    assert kinds == {"read", "refused"}  # the damage is neither too much nor too little


if __name__ == "__main__":
    read_copies(steps)
