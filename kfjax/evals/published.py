"""Published figures on the benchmarks, to stand beside ours in a report; each with where it was read.

Of Kling-Foley's table 2 (arXiv 2506.19774: 15,220 clips) rows that MMAudio's table has too are given from there, with
the inception score. Kling-Audio-Eval is the paper's benchmark, but the paper has no comparison on it
(github.com/klingfoley/Kling-Foley, issue 2). MultiFoley's clips are those of VGGSound's test set whose ImageBind score
is above 0.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

_KLING_TABLE = "Kling-Foley, arXiv 2506.19774, table 2"
_CODEC_TABLE = "Kling-Foley, arXiv 2506.19774, table 3"
_MULTIFOLEY_TABLE = "MultiFoley, arXiv 2411.17698, table 1: 8,702 clips of 8 s"
_MMAUDIO_TABLE = "MMAudio, arXiv 2412.15322"
_HUNYUAN_TABLE = "HunyuanVideo-Foley, arXiv 2508.16930"


class Published(NamedTuple):
    """One row of a published table; figures by the names of `measures.COLUMNS`."""

    system: str
    source: str
    figures: Mapping[str, float]


def _row(system: str, source: str, fd: float | None, kl: float | None, inception: float | None, ib: float | None = None,
         desync: float | None = None, clap: float | None = None, sdr: float | None = None,
         mcd: float | None = None) -> Published:  # fmt: skip
    values = {"fd_panns": fd, "kl_panns": kl, "is_panns": inception, "ib": ib, "desync_seconds": desync, "clap": clap,
              "sdr_db": sdr, "mcd_db": mcd}  # fmt: skip
    return Published(system, source, {name: value for name, value in values.items() if value is not None})


#: Benchmark -> rows.
PUBLISHED: Mapping[str, tuple[Published, ...]] = {
    "vggsound": (
        _row("Kling-Foley", _KLING_TABLE, 7.60, 1.86, None, 0.3075, 0.43, sdr=-2.41, mcd=2.60),
        _row("MMAudio", _KLING_TABLE, 6.29, 1.77, None, 0.2926, 0.45, sdr=-3.09, mcd=2.84),
        _row("ReWaS", _KLING_TABLE, 17.54, 2.87, None, 0.1482, 1.06),
        _row("VTA-LDM", _KLING_TABLE, 14.49, 2.23, None, 0.2473, 1.26),
        _row("VATT", _KLING_TABLE, 10.63, 1.48, None, 0.2500, 1.20),
        _row("V-AURA", _MMAUDIO_TABLE, 14.80, 2.42, 10.08, 0.2764, 0.654),
        _row("Frieren", _MMAUDIO_TABLE, 11.45, 2.73, 12.25, 0.2278, 0.851),
        _row("FoleyCrafter", _MMAUDIO_TABLE, 16.24, 2.30, 15.68, 0.2568, 1.225),
        _row("V2A-Mapper", _MMAUDIO_TABLE, 8.40, 2.69, 12.47, 0.2258, 1.225),
        _row("MMAudio-S-16kHz", _MMAUDIO_TABLE, 5.22, 1.65, 14.44, 0.2913, 0.483),
        _row("MMAudio-L-44.1kHz", _MMAUDIO_TABLE, 4.72, 1.65, 17.40, 0.3322, 0.442),
        _row("Diff-Foley", _MULTIFOLEY_TABLE, None, None, None, 0.195, 1.01, 0.205),
        _row("FoleyGen", _MULTIFOLEY_TABLE, None, None, None, 0.244, 1.24, 0.234),
        _row("VAB", _MULTIFOLEY_TABLE, None, None, None, 0.279, 1.20, 0.235),
        _row("MultiFoley", _MULTIFOLEY_TABLE, None, None, None, 0.280, 0.80, 0.344),
    ),
    "audiocaps": (
        _row("AudioLDM 2-L", _MMAUDIO_TABLE, 32.50, None, 8.54, clap=0.212),
        _row("TANGO 2", _MMAUDIO_TABLE, 19.77, None, 8.45, clap=0.264),
        _row("Make-An-Audio 2", _MMAUDIO_TABLE, 15.34, None, 9.58, clap=0.251),
        _row("GenAU-Large", _MMAUDIO_TABLE, 16.51, None, 11.75, clap=0.285),
        _row("MMAudio-L-44.1kHz", _MMAUDIO_TABLE, 15.04, None, 12.08, clap=0.348),
    ),
    "kling-audio-eval": (
        _row("FoleyCrafter", _HUNYUAN_TABLE, 22.30, 2.47, 7.08, 0.22, 1.23, 0.22),
        _row("V-AURA", _HUNYUAN_TABLE, 33.15, 3.24, 5.80, 0.25, 0.86, 0.13),
        _row("Frieren", _HUNYUAN_TABLE, 16.86, 2.95, 7.32, 0.21, 0.86, 0.16),
        _row("MMAudio", _HUNYUAN_TABLE, 9.01, 2.17, 9.59, 0.30, 0.56, 0.27),
        _row("ThinkSound", _HUNYUAN_TABLE, 9.92, 2.39, 6.86, 0.22, 0.67, 0.22),
        _row("HunyuanVideo-Foley", _HUNYUAN_TABLE, 6.07, 1.89, 8.30, 0.38, 0.54, 0.24),
    ),
}


def _codec(system: str, pesq: float | None, si_sdr: float, sdr: float, lsd: float, mcd: float, mel: float,
           stft: float) -> Published:  # fmt: skip
    values = {
        "mel_l1": mel,
        "stft": stft,
        "lsd_db": lsd,
        "mcd_db": mcd,
        "si_sdr_db": si_sdr,
        "sdr_db": sdr,
        "pesq": pesq,
    }
    return Published(system, _CODEC_TABLE, {name: value for name, value in values.items() if value is not None})


#: Task -> rows of a codec's sounds against those it was given, 500 clips a task (effects, music, speech: Codec-SUPERB
#: at SLT 2024). "GT" is the paper's name for its first row.
CODECS: Mapping[str, tuple[Published, ...]] = {
    "effects": (
        _codec("GT", None, -24.84, -2.53, 0.61, 0.76, 0.41, 0.86),
        _codec("MMAudio", None, -29.57, -3.29, 0.70, 1.45, 0.81, 1.18),
        _codec("Kling-Foley", None, -29.47, -2.41, 0.70, 1.35, 0.78, 1.14),
    ),
    "music": (
        _codec("GT", None, -24.99, -2.50, 3.07, 5.76, 0.81, 1.60),
        _codec("MMAudio", None, -30.42, -2.54, 3.07, 5.72, 1.13, 1.83),
        _codec("Kling-Foley", None, -29.85, -2.16, 3.02, 5.44, 1.20, 1.95),
    ),
    "singing": (
        _codec("GT", 4.02, -15.04, -2.15, 0.69, 0.29, 0.33, 0.78),
        _codec("MMAudio", 2.80, -22.84, -3.90, 0.83, 1.08, 0.76, 1.14),
        _codec("Kling-Foley", 2.88, -23.55, -2.83, 0.81, 0.70, 0.60, 1.00),
    ),
    "speech": (
        _codec("GT", 3.72, -8.30, -0.32, 2.51, 3.18, 0.54, 1.10),
        _codec("MMAudio", 3.10, -26.64, -2.62, 2.51, 3.09, 0.85, 1.32),
        _codec("Kling-Foley", 3.27, -26.32, -2.27, 2.48, 2.91, 0.89, 1.37),
    ),
}
