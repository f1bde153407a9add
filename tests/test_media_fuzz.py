"""Damaged films: whatever bytes are lost or flipped, reading ends in frames and samples or in one line."""

import json
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from kfjax import media
from tests.tiny import media_files as files

#: Reads, listens and writes with every damaged copy; a death by signal is a hang (SIGALRM), a crash or too much memory.
CHILD = """
import json, os, resource, signal, sys, traceback
import av, numpy as np
from kfjax import media

source, folder, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
data = open(source, "rb").read()
with open("/proc/self/statm") as file:
    held = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (1 << 30), resource.RLIM_INFINITY))
wave = np.zeros((4410, 2), np.float32)
spec = media.FrameSpec(8, 64, "stretch")
suffix = os.path.splitext(source)[1]

def damaged(rng):
    copy = bytearray(data)
    if rng.random() < 0.3:
        return bytes(copy[: rng.integers(len(copy))])
    # Headers are short and matter most: half of the flips hit the first or last tenth.
    for _ in range(rng.integers(1, 9)):
        tenth = len(copy) // 10
        place = rng.choice([rng.integers(len(copy)), rng.integers(tenth), len(copy) - 1 - rng.integers(tenth)])
        copy[place] ^= 1 << rng.integers(8)
    return bytes(copy)

def tried(function, *args, **named):
    try:
        function(*args, **named)
        return "read"
    except media.MediaError as error:
        if "\\n" in str(error) or len(str(error)) > 1000:
            raise RuntimeError(f"not one line: {error!r}") from error
        return "refused"

for k in range(count):
    path, output = os.path.join(folder, f"a{suffix}"), os.path.join(folder, f"b{suffix}")
    with open(path, "wb") as file:
        file.write(damaged(np.random.default_rng(k)))
    print(json.dumps({"k": k}), flush=True)
    signal.alarm(60)
    try:
        ends = [tried(media.probe, path), tried(media.read_frames, path, [spec]), tried(media.read_audio, path, 16000),
                tried(media.mux, path, wave, 44100, output),
                tried(media.mux, path, wave, 44100, output, keep_original_gain=1.0)]  # fmt: skip
        print(json.dumps({"ends": ends}), flush=True)
    except BaseException:
        print(json.dumps({"traceback": traceback.format_exc()}), flush=True)
    signal.alarm(0)
    left = [name for name in os.listdir(folder) if name.startswith(".")]
    if left:
        print(json.dumps({"traceback": f"left behind: {left}"}), flush=True)
# ru_maxrss would begin at what the process that forked this one held.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"peak": int(peak.split()[1]) * 1024}), flush=True)
"""


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


def fuzz(source, folder, count):
    """(what each step ended in, for each copy; the problems; the child's peak memory in bytes)."""
    arguments = [sys.executable, "-c", CHILD, str(source), str(folder), str(count)]
    child = subprocess.run(arguments, capture_output=True, text=True)
    lines = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]
    ends, problems, current, peak = [], [], None, None
    for line in lines:
        current, peak = line.get("k", current), line.get("peak", peak)
        if "ends" in line:
            ends.append(line["ends"])
        if "traceback" in line:
            problems.append(f"{source.suffix} {current}: {line['traceback']}")
    if child.returncode:
        problems.append(f"{source.suffix} {current}: ended with {child.returncode}: {child.stderr[-2000:]}")
    return ends, problems, peak


@pytest.mark.parametrize("count", [20, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_damaged_copies(tmp_path, films, suffix, count):
    ends, problems, peak = fuzz(films[suffix], tmp_path, count)
    assert not problems, "\n".join(problems)
    assert len(ends) == count and peak < 1 << 30
    kinds = {end for one in ends for end in one}
    assert kinds == {"read", "refused"}  # the damage is neither too much nor too little
