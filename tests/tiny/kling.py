"""A Kling-Foley system at small sizes, without a generator's weights: the files of its parts in their true layouts."""

from dataclasses import replace
from pathlib import Path

from kfjax.codec.bigvgan import BigVGANConfig
from kfjax.codec.vae import VAEConfig
from kfjax.convert import families, hub, systems
from kfjax.convert.formats import files
from kfjax.convert.tables import bigvgan, clip, mmaudio, synchformer, synchformer_whole, t5, vae
from kfjax.encoders.clip import CLIPTextConfig, CLIPVisionConfig
from kfjax.encoders.t5 import T5Config
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.generators.mmdit.sizes import SIZES
from tests.tiny import public
from tests.tiny.system import CAPTIONS

NAME = "kling-foley-tiny"
#: The codec of `tests.tiny.system`, so that features of both can be compared, is of 8 channels too.
VAE = VAEConfig(variant="edm2", latent_dim=8, width=8)
VOCODER = BigVGANConfig(width=64, block_kernels=(3,), dilations=(1,))
TOWERS = clip.CLIPConfig(
    vision=CLIPVisionConfig(size=28, patch=14, width=24, depth=2, heads=2, mlp_width=40, out_dim=20),
    text=CLIPTextConfig(vocab=60, width=20, depth=1, heads=2, mlp_width=32),
    reads_text=False,
)
TEXT = T5Config(vocab=64, width=12, depth=2, heads=2, head_dim=6, hidden=24)
FAMILIES = {
    "mmaudio": public.VARIANT, "mmaudio-vae": "44k", "bigvgan": "44k", "clip": systems.META_CLIP,
    "synchformer-whole": "synchformer", "t5": systems.T5,
}  # fmt: skip


def announce(monkeypatch) -> None:
    """Make the small system known beside the public ones."""
    for module, name, cfg in (
        (mmaudio, public.VARIANT, public.FLOW), (vae, "44k", VAE), (bigvgan, "44k", VOCODER),
        (clip, systems.META_CLIP, TOWERS), (t5, systems.T5, TEXT), (synchformer, "synchformer", public.SYNC),
        (synchformer_whole, "synchformer", public.JUDGE),
    ):  # fmt: skip
        monkeypatch.setitem(module.CONFIGS, name, cfg)
    size = replace(SIZES["1.5b"], width=64, heads=1, joint_depth=1, single_depth=1)
    monkeypatch.setitem(SIZES, "tiny", size)
    monkeypatch.setitem(systems.SYSTEMS, public.VARIANT, systems.SYSTEMS["small_44k"])
    monkeypatch.setitem(systems.KLING, "tiny", systems.kling_system("tiny"))
    flow = hub.FLOWS["small_44k"]._replace(file=f"weights/mmaudio_{public.VARIANT}.pth")
    sources = (flow, *hub.CODECS["44k"], *hub.KLING_ENCODERS)
    monkeypatch.setitem(hub.MODELS, NAME, tuple(source._replace(checksum=None) for source in sources))


def write(folder: Path) -> Path:
    """The files of its parts; returns the folder."""
    folder.mkdir(parents=True)
    for family, variant in FAMILIES.items():
        known = families.named(family)
        files.write_state(folder / known.files(variant), public.state(family, variant), inside=known.inside)
    Tokenizer.train(CAPTIONS, vocab_size=TEXT.vocab, length=77).save(folder / "tokenizer.json")
    (folder / "SHA256SUMS").unlink()
    return folder
