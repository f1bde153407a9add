"""The system: every part's configuration and weights together, and the model directory that holds them.

A model directory has `config.json` (a `SystemConfig`), `model.safetensors` (names begin with the part: text, clip,
sync, mmdit, vae, stereo, vocoder), `tokenizer.json` and, for people, `MODEL_CARD.md`.
"""
from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import jax

from kfjax import config, module
from kfjax.checkpoint import load_params, save_params
from kfjax.codec.audio_codec import CodecConfig
from kfjax.codec.stereo import Mono2Stereo
from kfjax.codec.vae import MelVAE
from kfjax.codec.vocoder import Vocoder
from kfjax.encoders.clip import CLIPVision, CLIPVisionConfig
from kfjax.encoders.synchformer import Synchformer, SynchformerConfig
from kfjax.encoders.t5 import T5Config, T5Encoder
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.mmdit.mmdit import MMDiT, MMDiTConfig
from kfjax.module import Params
from kfjax.rates import Rates

CODEC_PARTS = ("vae", "stereo", "vocoder")
#: What a model directory must hold.
FILES = ("config.json", "model.safetensors", "tokenizer.json")


@dataclass(frozen=True)
class Defaults:
    """Sampling settings that suit a set of weights."""

    steps: int = 20
    guidance: float = 4.5
    negative: float = 1.0  # scale of a negative prompt when one is given


@dataclass(frozen=True)
class SystemConfig:
    """One coherent system; widths that must agree are checked.

    Raises:
      ValueError: parts whose dimensions do not fit together, all named at once.
    """

    mmdit: MMDiTConfig
    text: T5Config = field(default_factory=T5Config)
    clip: CLIPVisionConfig = field(default_factory=CLIPVisionConfig)
    sync: SynchformerConfig = field(default_factory=SynchformerConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    rates: Rates = field(default_factory=Rates)
    defaults: Defaults = field(default_factory=Defaults)
    text_tokens: int = 77
    clip_resize: Literal["stretch", "crop"] = "stretch"
    sync_resize: Literal["stretch", "crop"] = "crop"
    stereo_sees: Literal["clip", "sync"] = "clip"  # the per-frame features that place a source left or right
    name: str = "unnamed"

    def __post_init__(self):
        pairs = {
            "mmdit.text_dim": (self.mmdit.text_dim, self.text.width),
            "mmdit.clip_dim": (self.mmdit.clip_dim, self.clip.out_dim),
            "mmdit.sync_dim": (self.mmdit.sync_dim, self.sync.width),
            "mmdit.latent_dim": (self.mmdit.latent_dim, self.codec.vae.latent_dim),
            "codec.stereo.clip_dim": (
                self.codec.stereo.clip_dim, self.clip.out_dim if self.stereo_sees == "clip" else self.sync.width
            ),
        }
        unequal = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        wrong = [f"{name} is {got}, the part it reads gives {want}" for name, (got, want) in unequal.items()]
        if wrong:
            raise ValueError("the parts do not fit together: " + "; ".join(wrong))

    def parts(self) -> dict[str, tuple[type, object]]:
        """Name -> (module class, its configuration)."""
        return {
            "text": (T5Encoder, self.text),
            "clip": (CLIPVision, self.clip),
            "sync": (Synchformer, self.sync),
            "mmdit": (MMDiT, self.mmdit),
            "vae": (MelVAE, self.codec.vae),
            "stereo": (Mono2Stereo, self.codec.stereo),
            "vocoder": (Vocoder, self.codec.vocoder),
        }


class System(NamedTuple):
    """A configuration, its weights and its tokenizer."""

    cfg: SystemConfig
    params: Params
    tokenizer: Tokenizer


def init_parts(cfg: SystemConfig, names: tuple[str, ...], key: jax.Array) -> Params:
    """Random weights of the named parts, each from its own stream."""
    parts = cfg.parts()
    keys = dict(zip(parts, jax.random.split(key, len(parts)), strict=True))
    return {name: module.init(*parts[name], keys[name]) for name in names}


def part_shapes(cfg: SystemConfig) -> Params:
    """Shapes of every weight of the system; allocates nothing."""
    return {name: module.shapes(cls, part) for name, (cls, part) in cfg.parts().items()}


def save(directory: str | Path, system: System, *, card: str = "", dtype: str | None = None) -> None:
    """Write a model directory. An existing one is replaced only once the new one is complete.

    Raises:
      ValueError: the directory holds something else.
    """
    directory = Path(directory)
    if directory.is_dir() and any(directory.iterdir()) and not (directory / FILES[0]).is_file():
        raise ValueError(f"{directory} is not empty and holds no model; expected a new, empty or model directory")
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}-"))
    try:
        (temporary / "config.json").write_text(json.dumps(config.to_dict(system.cfg), indent=1) + "\n")
        save_params(temporary / "model.safetensors", system.params, dtype=dtype)
        system.tokenizer.save(temporary / "tokenizer.json")
        if card:
            (temporary / "MODEL_CARD.md").write_text(card)
        temporary.chmod(0o755)
        if directory.exists():
            shutil.rmtree(directory)
        os.replace(temporary, directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load(directory: str | Path) -> System:
    """Read a model directory.

    Raises:
      ValueError: missing files, a config with an unknown key or bad value, weights that do not fit it.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ValueError(f"no model directory at {directory}: expected a folder with config.json and model.safetensors")
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        raise ValueError(f"{directory} is not a model directory: missing {', '.join(missing)}; export the model again")
    cfg = load_config(directory / "config.json")
    params = load_params(directory / "model.safetensors", part_shapes(cfg))
    return System(cfg, params, Tokenizer.load(directory / "tokenizer.json", cfg.text_tokens))


def load_config(path: str | Path) -> SystemConfig:
    """Read a `config.json`.

    Raises:
      ValueError: not JSON, an unknown key, a bad value.
    """
    try:
        values = json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); export the model again") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: got {type(values).__name__}, expected a JSON object with the keys of SystemConfig")
    return config.from_dict(SystemConfig, values)
