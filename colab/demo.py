# ---
# jupyter:
#   colab:
#     name: kfjax demo
#     provenance: []
#     toc_visible: true
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: colab,kernelspec
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # A clip in, the clip with sound out
#
# Run the cells from the top. They work on a CPU, a GPU and a TPU runtime. On two cores of a CPU the first sound for
# five seconds of film takes about ten seconds, since programs are compiled once for each length; every other one
# about four.
#
# **What the built-in model knows.** A small world of drawn scenes: balls that bounce, hammers, footsteps, clocks,
# bells, pianos, rain, wind, fire, engines. On real footage it is out of its depth. For that, choose public weights in
# the second cell, and a GPU runtime; everything below stays the same. `mmaudio-large-44k-v2` fetches 10 GB; its
# weights are for non-commercial use.

# %% tags=["set-up"]
# @title Install { display-mode: "form" }
# ruff: noqa: E402
import glob
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

# Empty: the released version; inside a clone, that clone. Else the address of a git repository of kfjax.
REPOSITORY = ""  # @param {type: "string"}
if importlib.util.find_spec("kfjax") is None:
    clone = Path.cwd().resolve().parent
    tpu = glob.glob("/dev/accel*") or any(name.startswith(("COLAB_TPU", "TPU_ACC")) for name in os.environ)
    extra = "[cuda]" if shutil.which("nvidia-smi") else "[tpu]" if tpu else ""
    if REPOSITORY:
        wanted = f"kfjax{extra} @ git+{REPOSITORY}"
    else:
        wanted = f"{clone if (clone / 'kfjax' / 'pipeline.py').is_file() else 'kfjax'}{extra}"
    if subprocess.call([sys.executable, "-m", "pip", "install", "-q", wanted]):
        raise RuntimeError(f"pip could not install {wanted} (why, it says above); REPOSITORY takes another source")

# %% tags=["set-up"]
# @title Load the model { display-mode: "form" }
MODEL = "built-in"  # @param ["built-in", "mmaudio-small-44k", "mmaudio-large-44k-v2"] {allow-input: true}
import jax
from IPython.display import Audio, Image, Video, display

import kfjax
from kfjax import media, plot
from kfjax.commands import jobs

model = kfjax.load(MODEL)
folder = Path("kfjax_demo")
folder.mkdir(exist_ok=True)
defaults = model.cfg.defaults
print(f"{MODEL} on {jax.devices()[0].device_kind}: {defaults.steps} steps, guidance {defaults.guidance:g}")

# %% [markdown]
# ## Upload a clip
#
# Leave `CLIP` empty to be asked for a file. Press *Cancel* there, or run this outside of Colab, to take the example
# that comes with kfjax. Of a clip longer than `SECONDS` the beginning gets a sound; 60 is the most.

# %%
CLIP = ""  # @param {type: "string"}
SECONDS = 8.0  # @param {type: "number"}


def chosen() -> Path:
    """The path given, the file uploaded, or the example."""
    if CLIP:
        return Path(CLIP)
    try:
        from google.colab import files
    except ImportError:
        return jobs.EXAMPLE
    return Path(next(iter(files.upload()), jobs.EXAMPLE))


clip = chosen()
info = media.probe(clip)
seconds = min(info.seconds, SECONDS)
print(f"{clip.name}: {info.width} x {info.height} pixels, {info.seconds:.2f} s, of which {seconds:.2f} s get a sound")

# %% [markdown]
# ## Its sound
#
# An empty prompt leaves it all to the picture. The negative prompt says what must not be heard. Guidance is how
# strongly picture and prompt are followed. The same numbers give the same sound.

# %%
PROMPT = ""  # @param {type: "string"}
NEGATIVE_PROMPT = ""  # @param {type: "string"}
GUIDANCE = defaults.guidance
STEPS = defaults.steps
SEED = 0  # @param {type: "integer"}

sound = model.generate(
    clip, PROMPT, negative_prompt=NEGATIVE_PROMPT, duration=seconds, guidance=GUIDANCE, steps=STEPS, seed=SEED
)
[with_sound] = sound.save(folder / f"{clip.stem}{jobs.output_suffix(clip, audio_only=False)}")
display(Video(str(with_sound), embed=True, width=480))

# %% [markdown]
# The sound is exactly as long as what it was made for, and its picture: frames, both channels, the mel spectrogram, and
# where between left and right it stands.

# %%
print(f"{len(sound.waveform)} samples at {sound.sample_rate_hz} Hz: {len(sound.waveform) / sound.sample_rate_hz:.3f} s")
strip = plot.read_strip(clip, sound.seconds)
plot.overview(folder / "sound.png", sound.waveform, sound.sample_rate_hz, frames=strip, title=PROMPT or clip.name)
display(Image(str(folder / "sound.png"), width=800))

# %% [markdown]
# ## From a prompt alone

# %%
TEXT = "a hammer strikes a metal block"  # @param {type: "string"}
TEXT_SECONDS = 5.0  # @param {type: "number"}

spoken = model.generate(prompt=TEXT, duration=TEXT_SECONDS, steps=STEPS, seed=SEED)
display(Audio(spoken.waveform.T, rate=spoken.sample_rate_hz, normalize=False))
plot.overview(folder / "text.png", spoken.waveform, spoken.sample_rate_hz, title=TEXT)
display(Image(str(folder / "text.png"), width=800))

# %% [markdown]
# ## Seeds side by side
#
# One film, several sounds. What the film decides stays: the moments and the places. What it leaves open changes.

# %%
SEEDS = 3  # @param {type: "integer"}

versions = {}
for seed in range(SEEDS):
    made = model.generate(clip, PROMPT, negative_prompt=NEGATIVE_PROMPT, duration=seconds, steps=STEPS, seed=seed)
    versions[f"seed {seed}"] = made.waveform
    print(f"seed {seed}")
    display(Audio(made.waveform.T, rate=made.sample_rate_hz, normalize=False))
plot.versions(folder / "seeds.png", versions, sound.sample_rate_hz, frames=strip)
display(Image(str(folder / "seeds.png"), width=800))

# %% [markdown]
# ## A span made anew
#
# Outside of the span the sound from before stands, sample for sample but for 20 ms at the border. `strength`
# instead lets the whole sound go a part of the way.

# %%
FROM, TO = seconds / 2, seconds

redone = model.generate(
    clip, PROMPT, duration=seconds, steps=STEPS, seed=SEED + 1, audio=sound.waveform, redo=[(FROM, TO)]
)
varied = model.generate(clip, PROMPT, duration=seconds, steps=STEPS, seed=SEED + 1, audio=sound.waveform, strength=0.5)
differs = (redone.waveform != sound.waveform).any(1).nonzero()[0] / sound.sample_rate_hz
print(f"redone: {FROM:.2f} to {TO:.2f} s; differs from {differs.min():.2f} to {differs.max():.2f} s")
display(Audio(redone.waveform.T, rate=redone.sample_rate_hz, normalize=False))
changes = {"before": sound.waveform, "redone": redone.waveform, "varied by 0.5": varied.waveform}
plot.versions(folder / "redone.png", changes, sound.sample_rate_hz, frames=strip, marks=[FROM, TO])
display(Image(str(folder / "redone.png"), width=800))

# %% [markdown]
# ## Like another sound
#
# A reference is a short sound, or a film with one: the clip gets the sounds of its own moments, in that one's manner.
# Here it is the hammer from above.

# %%
[reference] = spoken.save(folder / "reference.wav")
like = model.generate(clip, PROMPT, duration=seconds, steps=STEPS, seed=SEED, reference=reference)
display(Audio(like.waveform.T, rate=like.sample_rate_hz, normalize=False))

# %% [markdown]
# ## Music beside the sound
#
# Its prompt is its own, and the picture does not decide it. Both parts are there as stems, and `loudness` sets the
# mix to so many LUFS.

# %%
MUSIC = "a slow piano"  # @param {type: "string"}

mix = model.generate(
    clip, PROMPT, duration=seconds, steps=STEPS, seed=SEED, music_prompt=MUSIC, music_gain=0.5, loudness=-16
)
display(Audio(mix.waveform.T, rate=mix.sample_rate_hz, normalize=False))
print(*(path.name for path in mix.save(folder / "mix.wav", stems=True)))

# %% [markdown]
# ## A long sound
#
# What is longer than one pass of the model is made in windows that overlap, up to an hour. `model.stream` gives it
# piece by piece while it is made.

# %%
LONG_SECONDS = 16.0  # @param {type: "number"}
LONG_STEPS = min(STEPS, 8)

stream = model.stream(prompt="heavy rain", duration=LONG_SECONDS, steps=LONG_STEPS, seed=SEED)
stream.save(folder / "long.wav")
long = media.read_audio(folder / "long.wav", stream.sample_rate_hz)
print(f"{len(long) / stream.sample_rate_hz:.3f} s")

# %% [markdown]
# ## Take it with you
#
# Everything lies in the folder `kfjax_demo`. In Colab the next cell downloads the clip with its sound.

# %%
DOWNLOAD = False  # @param {type: "boolean"}
print(*sorted(path.name for path in folder.iterdir()))
if DOWNLOAD:
    from google.colab import files

    files.download(str(with_sound))

# %% [markdown]
# ## Further
#
# The same from a terminal: `kfjax generate clip.mp4 --prompt "heavy rain" --plot`; `kfjax generate --help` lists
# the rest. [`tour.ipynb`](tour.ipynb) goes through the code in ten minutes.
