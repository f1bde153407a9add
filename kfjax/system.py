"""The system: every part's configuration and weights together, and the model directory that holds them.

A model directory has `config.json` (a `SystemConfig`), `tokenizer.json`, for people `MODEL_CARD.md`, and the weights:
`model.safetensors` (names begin with the part: text, clip, sync, mmdit, vae, stereo, vocoder), or, for large systems,
one `PART.safetensors` a part, each read when it is needed. `SHA256SUMS` has the digests that are checked on reading.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from kfjax import config
from kfjax.codec.configs import CodecConfig, StereoConfig
from kfjax.encoders.configs import CLIPTextConfig, CLIPVisionConfig, SynchformerConfig, T5Config
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.generators import generator_of
from kfjax.generators.mmdit.config import MMDiTConfig
from kfjax.nn import module
from kfjax.nn.module import Params
from kfjax.rates import Rates
from kfjax.storage import cache, disk
from kfjax.storage.bucket import upload_folder
from kfjax.storage.checkpoint import load_params, save_params, unflatten
from kfjax.xla import programs

#: The parts that make features of frames and captions.
ENCODERS = ("clip", "sync", "text")
#: What a model directory must hold.
CONFIG, TOKENIZER = FILES = ("config.json", "tokenizer.json")
WEIGHTS = "model.safetensors"
#: Where they come from in a directory of converted public weights.
WHENCE = {
    CONFIG: f"{CONFIG} comes with the flow network: kfjax convert mmaudio_*.pth DIRECTORY",
    TOKENIZER: f"{TOKENIZER} is the vocabulary of CLIP's text encoder: put vocab.json and merges.txt of "
    "openai/clip-vit-large-patch14 (on the hub; all CLIP text encoders share them) into a folder and run: "
    f"kfjax convert FOLDER DIRECTORY; of T5 it is the {TOKENIZER} beside the weights",
}
#: For people; may be missing.
CARD = "MODEL_CARD.md"
#: Branch of a part's file that holds what came with public weights and nothing here runs.
UNUSED = "unused"


@dataclass(frozen=True)
class Defaults:
    """Sampling settings that suit a set of weights.

    Attributes:
      steps, guidance: of the sampler.
      negative: scale of a negative prompt when one is given.
      longest: seconds of the longest sound that is made in one pass; a longer one is made in windows.
      window: seconds of a window, a whole number; a duration that the weights know.
      overlap: seconds that neighbouring windows share, a whole number.
      guard: seconds at a window's borders that are not used, for weights that let sound fade there.
    """

    steps: int = 20
    guidance: float = 4.5
    negative: float = 1.0
    longest: float = 10.0
    window: int = 8
    overlap: int = 2
    guard: float = 0.0


@dataclass(frozen=True)
class SystemConfig:
    """One coherent system; widths that must agree are checked.

    Raises:
      ValueError: parts whose dimensions do not fit together, all named at once.
    """

    mmdit: MMDiTConfig
    text: T5Config | CLIPTextConfig = field(default_factory=T5Config)
    clip: CLIPVisionConfig = field(default_factory=CLIPVisionConfig)
    sync: SynchformerConfig = field(default_factory=SynchformerConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    rates: Rates = field(default_factory=Rates)
    defaults: Defaults = field(default_factory=Defaults)
    text_tokens: int = 77
    clip_resize: Literal["stretch", "crop"] = "stretch"
    sync_resize: Literal["stretch", "crop"] = "crop"
    known_as: Literal["clean", "renoised"] = "renoised"  # how the weights take given latents, see `sampler.integrate`
    stereo_sees: Literal["clip", "sync"] = "clip"  # the per-frame features that place a source left or right
    name: str = "unnamed"

    def __post_init__(self):
        pairs = {
            "mmdit.text_dim": (self.mmdit.text_dim, self.text.width),
            "mmdit.clip_dim": (self.mmdit.clip_dim, self.clip.out_dim),
            "mmdit.sync_dim": (self.mmdit.sync_dim, self.sync.width),
            "mmdit.latent_dim": (self.mmdit.latent_dim, self.codec.vae.latent_dim),
        }
        if self.codec.stereo is not None:
            seen = self.clip.out_dim if self.stereo_sees == "clip" else self.sync.width
            pairs["codec.stereo.clip_dim"] = self.codec.stereo.clip_dim, seen
        if isinstance(self.text, CLIPTextConfig):
            pairs["text_tokens"] = self.text_tokens, self.text.length
        unequal = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        wrong = [f"{name} is {got}, the part it reads gives {want}" for name, (got, want) in unequal.items()]
        if wrong:
            raise ValueError("the parts do not fit together: " + "; ".join(wrong))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parts."""
        return ("text", "clip", "sync", "mmdit", *self.codec.names)

    def parts(self) -> dict[str, tuple[type, object]]:
        """Name -> (module class, its configuration)."""
        from kfjax.encoders.clip import CLIPText, CLIPVision
        from kfjax.encoders.synchformer import Synchformer
        from kfjax.encoders.t5 import T5Encoder

        return {
            "text": (T5Encoder if isinstance(self.text, T5Config) else CLIPText, self.text),
            "clip": (CLIPVision, self.clip),
            "sync": (Synchformer, self.sync),
            "mmdit": (generator_of(self.mmdit), self.mmdit),
            **self.codec.parts(),
        }


def with_stereo(cfg: SystemConfig) -> SystemConfig:
    """The system with a Mono2Stereo, where it has none one of the default size.

    Raises:
      ValueError: Mono2Stereo can't read its mels.
    """
    if cfg.codec.stereo is not None:
        return cfg
    mel, clip = cfg.codec.mel, cfg.stereo_sees == "clip"
    mel_hz = mel.sample_rate_hz / mel.hop
    width, hz = (cfg.clip.out_dim, cfg.rates.clip_hz) if clip else (cfg.sync.width, mel_hz / 2)
    stereo = StereoConfig(bands=mel.bands, clip_dim=width, mel_hz=mel_hz, clip_hz=hz)
    return replace(cfg, codec=replace(cfg.codec, stereo=stereo))


class System(NamedTuple):
    """A configuration, its weights and its tokenizer."""

    cfg: SystemConfig
    params: Mapping[str, Params]
    tokenizer: Tokenizer


class PartFiles(Mapping[str, Params]):
    """Part -> its weights, read from `PART.safetensors` every time it is asked for: nothing is kept.

    Args:
      names: of the parts that are needed; all others are as if they were not there. Default: the system's.

    Raises:
      ValueError: files that are missing, all named at once.
    """

    def __init__(self, directory: Path, cfg: SystemConfig, names: Collection[str] = ()):
        self._cfg = cfg
        self._files = {name: directory / f"{name}.safetensors" for name in names or cfg.names}
        missing = [name for name, path in self._files.items() if not path.is_file()]
        if missing:
            advice = "convert these parts into it too"
            if set(missing) <= {"mmdit", "stereo"}:
                advice = "it serves to extract features and to train (kfjax extract --system, kfjax train)"
            listed = ", ".join(self._files[name].name for name in missing)
            raise ValueError(f"{directory} is not a whole model: missing {listed}; {advice}")

    def __getitem__(self, name: str) -> Params:
        return self.read(name)

    def read(self, name: str, place: Callable[[np.ndarray], Any] = lambda x: x) -> Params:
        """The part's weights, each as `place` makes it; see `load_params`."""
        return load_params(self._files[name], stored_shapes(self._cfg, name)[name], skip=UNUSED, place=place)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def with_codec(cfg: SystemConfig, other: SystemConfig) -> SystemConfig:
    """The system with another's codec in its slot: mel, VAE and vocoder, and their rates.

    Mono2Stereo stays where the mel stays; to another the sound is mono.
    """
    stereo = cfg.codec.stereo if cfg.codec.mel == other.codec.mel else None
    rates = other.rates
    return replace(
        cfg,
        codec=replace(other.codec, stereo=stereo),
        rates=replace(cfg.rates, sample_rate_hz=rates.sample_rate_hz, hop=rates.hop, downsample=rates.downsample),
        mmdit=replace(cfg.mmdit, latent_dim=other.codec.vae.latent_dim),
    )


def with_weights_of_codec(system: System, other: System) -> System:
    """The same of whole systems, of which `other` holds nothing but parts of its codec."""
    params = ChainMap(other.params, system.params)  # pyright: ignore[reportArgumentType]  # read alone
    return System(with_codec(system.cfg, other.cfg), params, system.tokenizer)


def init_parts(cfg: SystemConfig, names: tuple[str, ...], key: jax.Array) -> Params:
    """Random weights of the named parts, each from its own stream."""
    parts = cfg.parts()
    keys = dict(zip(parts, jax.random.split(key, len(parts)), strict=True))
    return {name: module.init(*parts[name], keys[name]) for name in names}


def part_shapes(cfg: SystemConfig, *names: str) -> Params:
    """Shapes of the weights of these parts, or of all; allocates nothing."""
    parts = cfg.parts()
    return {name: module.shapes(*parts[name]) for name in names or parts}


def stored_shapes(cfg: SystemConfig, *names: str) -> Params:
    """As `part_shapes`; no network is built where the program cache has them."""

    def make() -> bytes:
        flat = module.flatten(part_shapes(cfg, *names))
        return json.dumps({name: (leaf.shape, leaf.dtype.name) for name, leaf in flat.items()}).encode()

    flat = json.loads(programs.kept("shapes", repr((cfg, names)), make))
    return unflatten({name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in flat.items()})


def save(directory: str | Path, system: System, *, card: str = "", dtype: str | None = None) -> None:
    """Write a model directory. An existing one is replaced only once the new one is complete.

    Raises:
      ValueError: the directory holds something else.
    """
    with replacing(directory) as temporary:
        disk.write_text(temporary / CONFIG, json.dumps(config.to_dict(system.cfg), indent=1) + "\n")
        save_params(temporary / WEIGHTS, dict(system.params), dtype=dtype)
        system.tokenizer.save(temporary / TOKENIZER)
        if card:
            (temporary / CARD).write_text(card)


@contextmanager
def replacing(directory: str | Path) -> Iterator[Path]:
    """A new folder for a model; it takes the place of the model directory once the block has ended well.

    Of a directory in a bucket it lies among this machine's temporary files, and is uploaded then, the config last.

    Raises:
      ValueError: the directory holds something else, such as a training run, which has a config of its own.
    """
    directory = disk.path(directory)
    whole = all((directory / name).is_file() for name in (CONFIG, TOKENIZER))
    if directory.is_dir() and any(directory.iterdir()) and not whole and not disk.unfinished(directory):
        raise ValueError(f"{directory} is not empty and holds no model; expected a new, empty or model directory")
    if disk.in_bucket(directory):
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
            upload_folder(Path(temporary), directory, last=CONFIG)
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}-"))
    try:
        yield temporary
        temporary.chmod(0o755)
        if directory.exists():
            shutil.rmtree(directory)
        disk.replace(temporary, directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load(directory: str | Path, parts: Collection[str] = ()) -> System:
    """Read a model directory; of one in a bucket the copy in this machine's cache.

    Args:
      parts: that are needed; the others may be missing. Default: all.

    Raises:
      ValueError: missing files, a config with an unknown key or bad value, weights that do not fit it.
      CheckpointError: a file that is not as it was written.
    """
    directory = cache.local(disk.path(directory))
    if not directory.is_dir():
        raise ValueError(f"no model directory at {directory}: expected a folder with config.json and model.safetensors")
    in_parts = any((directory / f"{name}.safetensors").is_file() for name in ("mmdit", "clip", "text", "vae"))
    needed = FILES if in_parts else (FILES[0], WEIGHTS, *FILES[1:])
    missing = [name for name in needed if not (directory / name).is_file()]
    if missing:
        advice = "; ".join(WHENCE[name] for name in missing) if in_parts else "make it again with kfjax export"
        raise ValueError(f"{directory} is not a model directory: missing {', '.join(missing)}; {advice}")
    cfg = load_config(directory / CONFIG)
    params = PartFiles(directory, cfg, parts) if in_parts else load_params(directory / WEIGHTS, stored_shapes(cfg))
    return System(cfg, params, Tokenizer.load(directory / TOKENIZER, cfg.text_tokens))


def load_config(path: str | Path) -> SystemConfig:
    """Read a `config.json`.

    Raises:
      ValueError: not JSON, an unknown key, a bad value.
      CheckpointError: the file is not as it was written.
    """
    with disk.checked(disk.digests(Path(path))):
        try:
            values = config.read_json(Path(path))
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error}); make it again with kfjax export") from None
        if not isinstance(values, dict):
            got = type(values).__name__
            raise ValueError(f"{path}: got {got}, expected a JSON object with the keys of SystemConfig")
        try:
            return config.from_dict(SystemConfig, values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
