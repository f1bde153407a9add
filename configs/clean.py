"""What `kfjax clean` keeps.

    kfjax clean crawl/ --output runs/clean
    kfjax clean crawl/ --output runs/clean --config configs/clean.py:loose --set thresholds.silence_share.most=0.5

[paper]: Kling-Foley (arXiv 2506.19774), section 5: above 720p, little subtitle area, stereo sound at 44.1 kHz and 16
bit, silence below a share of 0.2, excerpts of 10 s. It names signal-to-noise ratio, opinion score, clipping, bandwidth
and agreement with the caption, and no values of them: these are ours [ours]. Those made for speech refuse nothing
here, because clean rain and engines fail them (docs/data.md has figures). Synchrony and agreement with the caption have
no threshold: it should be found on data with the public weights.
Variants: "" (the paper's), "loose" (any size and rate, mono too, silence up to a half).
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    return ConfigDict({"": paper, "loose": loose}[variant]()).lock()


def paper() -> dict:
    return {
        "seconds": 10.0,  # [paper]
        "shortest_seconds": 1.0,  # [ours] shorter ones are joined in training
        "span_cuts": False,  # [ours] an excerpt ends at a scene cut
        "differing_share": 0.2,  # [ours] copies in other codecs differ in 0.16 at most, other excerpts in 0.3 at least
        "thresholds": {
            "shorter_side": {"least": 720.0},  # [paper]
            "audio_rate_hz": {"least": 44100.0},  # [paper]
            "silence_share": {"most": 0.2},  # [paper], there by voice activity
            "side_db": {"least": -50.0},  # [paper] stereo; copied mono has -57 at most behind a lossy codec, else -120
            # [ours] An inter-channel time difference brings a tone to -0.6, an inverted channel is at -0.99.
            "channel_correlation": {"least": -0.8},
            # [ours] Peaks at full scale have 2e-5 behind a lossy codec, music driven into a limiter up to 6e-4 (AAC).
            "clipped_share": {"most": 0.0002},
            "bandwidth_hz": {"least": 10000.0},  # [ours] what was once sampled at 16 kHz ends at 8000
            "loudness_lufs": {"least": -50.0},  # [ours]
            "still_share": {"most": 0.9},  # [ours] a still picture with music
            "border_share": {"most": 0.1},  # [ours]
            "logo_share": {"most": 0.003},  # [ours]
            "subtitle_share": {"most": 0.003},  # [paper] "little"; a line that stands all the time covers 0.02
            "snr_db": {"least": -20.0},  # [ours] the lowest there is: of speech alone 10 tells noisy from clean
            "mos": {"least": 0.0},  # [ours] the same; clean effects have 0.9 to 1.7
        },
    }


def loose() -> dict:
    config = paper()
    config["thresholds"] |= {
        "shorter_side": {"least": 0.0},
        "audio_rate_hz": {"least": 0.0},
        "side_db": {"least": -120.0},
        "silence_share": {"most": 0.5},
    }
    return config
