"""Published figures on the benchmarks, to stand beside ours in a report; each with where it was read.

Only figures of which a copy could be read are here. Of Kling-Foley's table 2 (arXiv 2506.19774: 15,220 clips) those are
the paper's own row and MMAudio's as measured there, quoted in public notes on its full text; the rows of others were
not quoted. Kling-Audio-Eval is the paper's benchmark, but the paper has no comparison on it
(github.com/klingfoley/Kling-Foley, issue 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

_KLING_TABLE = "Kling-Foley, arXiv 2506.19774, table 2, as quoted"
_MMAUDIO_TABLE = "MMAudio, arXiv 2412.15322"
_HUNYUAN_TABLE = "HunyuanVideo-Foley, arXiv 2508.16930"


class Published(NamedTuple):
    """One row of a published table; figures by the names of `measures.COLUMNS`."""

    system: str
    source: str
    figures: Mapping[str, float]


def _row(system: str, source: str, fd: float, kl: float | None, inception: float | None, ib: float | None = None,
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
        _row("V-AURA", _MMAUDIO_TABLE, 14.80, 2.42, 10.08, 0.2764, 0.654),
        _row("Frieren", _MMAUDIO_TABLE, 11.45, 2.73, 12.25, 0.2278, 0.851),
        _row("FoleyCrafter", _MMAUDIO_TABLE, 16.24, 2.30, 15.68, 0.2568, 1.225),
        _row("V2A-Mapper", _MMAUDIO_TABLE, 8.40, 2.69, 12.47, 0.2258, 1.225),
        _row("MMAudio-S-16kHz", _MMAUDIO_TABLE, 5.22, 1.65, 14.44, 0.2913, 0.483),
        _row("MMAudio-L-44.1kHz", _MMAUDIO_TABLE, 4.72, 1.65, 17.40, 0.3322, 0.442),
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
