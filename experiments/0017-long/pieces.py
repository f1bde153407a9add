"""Can the seams of a sound that was decoded in pieces be heard, and what does it cost?

    python -m experiments 0017/pieces              # writes pieces.json, prints the tables

Sounds of the built-in world and a steady tone go through the built-in codec, whole and in pieces. Short windows give
many seams; the cost is that of windows of 8 s. At a seam, and at moments away from all seams for comparison: the mean
over 40 bands of how much the level of 100 ms differs from that of the 100 ms before, the largest within 60 ms.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent

RATE_HZ, UNIT = 44100, 1024  # samples a second and a latent
NEAR_SECONDS = 0.06


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seconds", type=float, default=24.0, help="of every sound")
    parser.add_argument("--window", type=int, default=110, help="latents of a window, for the seams")
    parser.add_argument("--output", type=Path, default=HERE / "pieces.json")
    args = parser.parse_args()
    codec = Codec()
    report: dict = {"seconds": args.seconds, "window": args.window, "sounds": {}}
    for name, wave in sounds(args.seconds).items():
        latents = codec.encode(wave)
        whole = codec.whole(latents)
        # Rounding in the latents answers with other phases of the same spectrum: the least that pieces can differ.
        rows = {"whole": (whole, []), "whole, latents + 1e-6": (codec.whole(latents + np.float32(1e-6)), [])}
        for way, halo, weight in (("known", 25, 1), ("known, half the halo", 12, 1), ("cross-fade alone", 25, 0)):
            rows[way] = codec.pieces(latents, args.window, halo, weight)
        seams = rows["known"][1]
        report["sounds"][name] = {
            way: scores(made, whole, own or seams, tone=name == "tone") for way, (made, own) in rows.items()
        }
        print(name, json.dumps(report["sounds"][name], indent=1), flush=True)
    report["cost"] = codec.cost(latents)
    print(report["cost"])
    args.output.write_text(json.dumps(report, indent=1) + "\n")


class Codec:
    """The built-in codec, on mono sound."""

    def __init__(self):
        import jax

        from kfjax import system
        from kfjax.codec import audio_codec
        from kfjax.pipeline import BUILT_IN

        model = system.load(BUILT_IN)
        cfg, params = model.cfg.codec, jax.device_put({name: model.params[name] for name in model.cfg.codec.names})
        assert cfg.stereo is not None
        self.cfg, self.clip_dim = cfg, cfg.stereo.clip_dim
        self.encode = jax.jit(lambda wave: audio_codec.encode(params, cfg, wave[None]).mean)
        self._decode = jax.jit(
            lambda x, seen, overlap: audio_codec.decode(params, cfg, x, seen, np.zeros(1, bool), overlap=overlap)
        )

    def seen(self, latents):
        return np.zeros((1, 2 * latents.shape[1], self.clip_dim), np.float32)

    def whole(self, latents):
        return np.asarray(self._decode(latents, self.seen(latents), None))

    def pieces(self, latents, window: int, halo: int, weight: int):
        """The sound, and where its seams are, seconds."""
        from kfjax.codec import pieces

        def decode(latents, seen, overlap):
            return self._decode(latents, seen, overlap._replace(weight=weight * overlap.weight))

        usual, pieces.halo = pieces.halo, lambda cfg: halo
        made = pieces.Pieces(decode, self.cfg, latents.shape[1], window)
        pieces.halo = usual
        waves = list(made.feed(np.asarray(latents), self.seen(latents)))
        ends = np.cumsum([wave.shape[1] for wave in waves])[:-1]
        return np.concatenate(waves, 1), list((ends + UNIT / 2) / RATE_HZ)

    def cost(self, latents) -> dict[str, float]:
        """Processor seconds for a second of sound, whole and in pieces of 8 s as long films have them."""
        from kfjax.codec import pieces

        window = pieces.latents_of(self.cfg, pieces.SECONDS)
        x = np.asarray(latents)[:, :window]
        overlap = pieces.Overlap(np.zeros((1, window * UNIT, 2), np.float32), np.zeros(window * UNIT, np.float32))
        kept = {"whole": latents.shape[1], "pieces": window - 2 * pieces.halo(self.cfg) - 1}
        runs = {
            "whole": lambda: np.asarray(self._decode(latents, self.seen(latents), None)),
            "pieces": lambda: np.asarray(self._decode(x, self.seen(x), overlap)),
        }
        spent = {}
        for name, run in runs.items():
            run()
            start = time.process_time()
            run()
            spent[name] = (time.process_time() - start) / (kept[name] * UNIT / RATE_HZ)
        return spent | {"ratio": spent["pieces"] / spent["whole"]}


def sounds(seconds: float) -> dict[str, np.ndarray]:
    """Mono, without their first and last second, in which they swell and fade."""
    from kfjax.scenes.world.event import Event
    from kfjax.scenes.world.sound import render_sound

    rng, length = np.random.default_rng(0), seconds + 2
    sustained = lambda source, kind: [Event(0.0, source, kind, 0.3, 0.8, duration_seconds=length)]
    times = np.cumsum(rng.uniform(0.3, 0.9, int(length / 0.5)))
    struck = [Event(t, str(rng.choice(["metal", "wood", "bell"])), "impact", 0.0, 0.7) for t in times.tolist()]
    events = {"rain": sustained("rain", "weather"), "engine": sustained("engine", "pass"), "strokes": struck}
    made = {name: render_sound(list_, length, seed).mean(-1) for seed, (name, list_) in enumerate(events.items())}
    phase = 2 * np.pi * 440 * np.arange(len(made["rain"])) / RATE_HZ
    tone = 0.15 * np.sum([np.sin(k * phase + k) / k for k in range(1, 6)], 0)
    made["tone"] = tone + 10 ** (-70 / 20) * rng.standard_normal(len(tone))
    size = int(seconds * RATE_HZ) // UNIT * UNIT
    return {name: wave[RATE_HZ : RATE_HZ + size].astype(np.float32) for name, wave in made.items()}


def scores(made, whole, seams, *, tone: bool) -> dict[str, float]:
    made, whole = made[0].mean(-1), whole[0].mean(-1)
    mels, mono = [log_mel(wave) for wave in (made, whole)], levels(made)
    away = [s for s in np.arange(1, len(made) / RATE_HZ - 1, 0.137) if np.abs(s - np.array(seams)).min() > 0.3]
    jumps = [np.mean([largest(mono, s) for s in seconds]) for seconds in (seams, away)]
    out = {"mel L1 to whole": np.abs(mels[0] - mels[1]).mean(), "jump at seams": jumps[0], "jump elsewhere": jumps[1]}
    whole_jump = np.mean([largest(levels(whole), s) for s in seams])
    out["jump at seams, of whole's there"] = jumps[0] / whole_jump
    if tone:
        level = tone_level(made)
        dips = [[level[int(s * RATE_HZ) + np.arange(-2646, 2646)].min() for s in seconds] for seconds in (seams, away)]
        out |= {"lowest level at seams, dB": min(dips[0]), "lowest elsewhere, dB": min(dips[1])}
    return {name: round(float(x), 4) for name, x in out.items()}


def log_mel(wave):
    from kfjax import dsp

    magnitude = dsp.magnitudes(wave, 2048, 512)
    return np.log(np.maximum(magnitude @ dsp.mel_filters(128, 2048, RATE_HZ), 1e-5))


def levels(wave) -> np.ndarray:
    """Step of level at every mel frame: the mean over 40 bands, dB."""
    power = np.exp(2 * log_mel(wave))
    bands = np.add.reduceat(power, np.linspace(0, 128, 41).astype(int)[:-1], axis=1)
    total = np.concatenate([np.zeros((1, 40)), np.cumsum(bands, 0)])
    span = 9  # frames, 104 ms
    db = 10 * np.log10(total[span:] - total[:-span] + 1e-9)
    step = np.abs(db[span:] - db[:-span]).mean(1)
    return np.concatenate([np.zeros(span), step])


def largest(step, seconds: float) -> float:
    at = np.arange(len(step)) * 512 / RATE_HZ
    return step[np.abs(at - seconds) <= NEAR_SECONDS].max()


def tone_level(wave) -> np.ndarray:
    """Level of the tone's 440 Hz under a window of 30 ms, dB from its median."""
    carrier = np.exp(-2j * np.pi * 440 * np.arange(len(wave)) / RATE_HZ)
    hann = np.hanning(int(0.03 * RATE_HZ))
    around = len(wave) + len(hann) - 1
    spectrum = np.fft.fft(wave * carrier, around) * np.fft.fft(hann / hann.sum(), around)
    level = 20 * np.log10(np.abs(np.fft.ifft(spectrum))[len(hann) // 2 :][: len(wave)] + 1e-9)
    return level - np.median(level)


if __name__ == "__main__":
    main()
