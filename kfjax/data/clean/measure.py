"""Everything that is measured of an excerpt, from its files to a row of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from kfjax import media
from kfjax.command import reason
from kfjax.data.clean.excerpts import pieces
from kfjax.data.clean.measures import fingerprints, kinds, overlay, picture, sound, speech, wada
from kfjax.data.sources import SHORT_SECONDS, Cut, Row
from kfjax.metrics import levels

#: Frames of the picture that are looked at.
FRAMES = media.FrameSpec(rate_hz=4.0, size=128, resize="stretch", pixels="gray")
#: And those in which text and logos are looked for.
SPECS = (FRAMES, overlay.FRAMES)

#: Measure -> what it is, cheap ones first. A cell is empty where the measure does not apply or can't be made.
MEASURES = {
    "shorter_side": "pixels of the picture's shorter side, upright",
    "longer_side": "pixels of its longer side",
    "fps": "pictures a second",
    "audio_rate_hz": "sampling rate of the file's sound",
    "kilobits_per_second": "of the file or both files together, sound and picture",
    "clipped_share": "share of clipped samples of the worst channel, 0 to 1",
    "bandwidth_hz": "highest frequency with sound in it",
    "snr_db": "signal-to-noise ratio by amplitudes (WADA-SNR), -20 to 100; made for speech",
    "loudness_lufs": "integrated loudness (ITU-R BS.1770-4), at least -70",
    "true_peak_db": "highest peak between samples, dB of full scale, at least -120",
    "silence_share": "share of 50-ms frames below -60 dB of full scale, 0 to 1",
    "side_db": "level of left minus right over left plus right below 3.5 kHz; -120 for mono and copied mono",
    "channel_correlation": "of left and right below 3.5 kHz; -1 where one is inverted",
    "still_share": "share of quarters of a second in which the picture stands still, 0 to 1",
    "border_share": "share of the picture in black bars, 0 to 1",
    "sound_fingerprint": "256 bits in hexadecimal; empty for silence",
    "picture_fingerprint": "256 bits in hexadecimal; empty for a flat picture",
    "logo_share": "share of the picture in logos and watermarks, 0 to 1; empty where the camera stands still",
    "subtitle_share": "share of the picture in lines of text, 0 to 1",
    "speech_share": "share of the time in which someone speaks (Silero), 0 to 1; needs the extra `clean`",
    "mos": "overall quality of speech (DNSMOS P.835), about 1 to 5; needs the extra `clean`",
    "kind": "effects, music, speech or singing: by PANNs where its weights are there, else by a rule without singing",
    "text_agreement": "cosine of caption and sound (CLAP), -1 to 1; needs its weights",
    "sync_offset_seconds": "how much earlier than its picture the sound comes (Synchformer); needs its weights",
    "sync_confidence": "what Synchformer gives its offset, 0 to 1",
}
#: Measures that are no numbers: they have no threshold.
TEXTS = ("sound_fingerprint", "picture_fingerprint", "kind")
Value = float | int | str | None


class Networks(NamedTuple):
    """Measures by networks that need weights: what `evals.networks.excerpts` finds in a folder.

    Attributes:
      names: of the measures that can be made.
      measure: an excerpt -> these, by name; those that do not apply to it may be left out. It can be pickled.
    """

    names: tuple[str, ...]
    measure: Callable[[Cut], Mapping[str, Value]]


def _nothing(excerpt: Cut) -> Mapping[str, Value]:
    return {}


#: No weights at hand.
NO_NETWORKS = Networks((), _nothing)


class Measured(NamedTuple):
    """A row of the side table: an excerpt of a file, and its measures or the reason why there are none."""

    start_seconds: float
    seconds: float
    problem: str
    measures: dict[str, Value]


def measure(excerpt: Cut, pictures: Sequence[np.ndarray] = (), *, networks: Networks = NO_NETWORKS) -> dict[str, Value]:
    """All measures of an excerpt, by name in the order of `MEASURES`: a pure function of its files.

    The sound is measured at its own rate, in stereo; the picture by `SPECS`.

    Args:
      pictures: the excerpt's frames by each of `SPECS`, where they have been decoded already.

    Raises:
      ValueError: files that don't decode (`media.MediaError`), sound that ends early or is not finite.
    """
    found: dict[str, Value] = dict.fromkeys(MEASURES)
    found |= _of_header(excerpt.row)
    rate_hz = int(found["audio_rate_hz"] or 0)
    wave = _read_sound(excerpt, rate_hz)
    found |= _of_sound(wave, rate_hz)
    if excerpt.row.video is not None:
        if not pictures:
            pictures, _ = media.read_frames(
                excerpt.row.video, SPECS, start_seconds=excerpt.start_seconds, duration_seconds=excerpt.seconds
            )
        found |= _of_picture(*pictures)
    for name in speech.available():
        found[name] = getattr(speech, name)(wave, rate_hz)
    if "kind" not in networks.names:
        spoken = found["speech_share"]
        found["kind"] = kinds.by_rule(wave, rate_hz, None if spoken is None else float(spoken))
    found |= networks.measure(excerpt)
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in found.items()}


def _of_sound(wave: Float[np.ndarray, "t 2"], rate_hz: int) -> dict[str, Value]:
    low, low_hz = sound.undrawn(wave, rate_hz)
    return {
        "clipped_share": sound.clipped_share(wave),
        "bandwidth_hz": sound.bandwidth_hz(wave, rate_hz),
        "snr_db": wada.snr_db(wave),
        "loudness_lufs": levels.loudness_lufs(wave, rate_hz),
        "true_peak_db": max(-120.0, levels.true_peak_db(wave)),
        "silence_share": levels.silence_share(wave, rate_hz),
        "side_db": sound.side_db(low),
        "channel_correlation": sound.channel_correlation(low),
        "sound_fingerprint": fingerprints.sound_fingerprint(low, low_hz),  # all that it looks at, in fewer samples
    }


def _of_picture(coarse: UInt8[np.ndarray, "n h w"], fine: UInt8[np.ndarray, "m x y"]) -> dict[str, Value]:
    """Of the frames of `SPECS`."""
    return {
        "still_share": picture.still_share(coarse),
        "border_share": picture.border_share(coarse),
        "picture_fingerprint": fingerprints.picture_fingerprint(coarse),
        "logo_share": overlay.logo_share(fine),
        "subtitle_share": overlay.subtitle_share(fine),
    }


def measure_row(
    row: Row,
    seconds: float,
    shortest_seconds: float,
    networks: Networks = NO_NETWORKS,
    *,
    span_cuts: bool = False,
) -> Iterator[Measured]:
    """All excerpts of a row (`excerpts.pieces`), measured. What can't be used has its reason and stops nothing else.

    Errors of any class are caught: ONNX Runtime's and FFmpeg's have none in common but `Exception`.
    """
    at = row.start_seconds
    try:
        for cut, pictures in pieces(row, seconds, shortest_seconds, SPECS, span_cuts=span_cuts):
            at = cut.start_seconds + cut.seconds
            try:
                yield Measured(cut.start_seconds, cut.seconds, "", measure(cut, pictures, networks=networks))
            except Exception as error:
                yield Measured(cut.start_seconds, cut.seconds, _problem(row, error), {})
    except Exception as error:
        yield Measured(at, 0.0, _problem(row, error), {})


def _problem(row: Row, error: Exception) -> str:
    """The reason in the table. Of a million files some find a defect in a library: it is named there too."""
    if isinstance(error, ValueError | OSError):
        with suppress(ValueError, OSError):  # raised again where it is no message to a user
            return reason(error)
    return f"{row.sound}: can't be measured ({type(error).__name__}: {error}); leave it out, or report it"


def _of_header(row: Row) -> dict[str, Value]:
    paths = [path for path in (row.video, row.audio) if path is not None]
    infos = [media.probe(path) for path in paths]
    rates = [path.stat().st_size * 8 / 1000 / max(info.seconds, 1e-3) for path, info in zip(paths, infos, strict=True)]
    found: dict[str, Value] = {"audio_rate_hz": infos[-1].audio_rate_hz, "kilobits_per_second": sum(rates)}
    if row.video is not None:
        sides = sorted((infos[0].width, infos[0].height))
        found |= {"shorter_side": sides[0], "longer_side": sides[1], "fps": infos[0].fps}
    return found


def _read_sound(excerpt: Cut, rate_hz: int) -> np.ndarray:
    """f32 [t, 2] at the file's own rate, a channel in one piece: measures take two thirds of the time then."""
    path = excerpt.row.sound
    wave = media.read_audio(path, rate_hz, 2, excerpt.seconds, excerpt.start_seconds)
    if len(wave) < (excerpt.seconds - SHORT_SECONDS) * rate_hz - 1:
        there = f"{len(wave) / rate_hz:.2f} of {excerpt.seconds:g} seconds"
        raise media.MediaError(f"{path}: has sound for {there} from {excerpt.start_seconds:g} on; cut it there")
    if not np.isfinite(wave).all():
        raise media.MediaError(f"{path}: its sound has NaN or infinite samples; convert it again")
    return np.asfortranarray(wave)
