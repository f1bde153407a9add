"""Every kind of public weights file: how it is told, its variants, and which parts of a system it fills.

    family, variant = recognise(state)                      # by keys and shapes
    parts = family.to_parts(state, variant)                 # {"mmdit": params}, {"clip": ..., "text": ...}, ...
    state = family.to_state(parts, variant)                 # bit for bit what was read

A part's parameters may have an `unused` branch: what the public file holds and nothing here runs, for the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from kfjax.command import quoted
from kfjax.convert import rules
from kfjax.convert.rules import Rule, Shape, State
from kfjax.convert.tables import bigvgan, clip, imagebind, mmaudio, panns, synchformer, synchformer_whole, t5, vae
from kfjax.module import Params

UNUSED = "unused"
#: The CLIP variants whose text tower the systems read; of the others only the image tower is a part.
CLIP_WITH_TEXT = ("dfn5b-vit-h-14-384",)


class Family(NamedTuple):
    """One table and the variants it serves.

    Attributes:
      name: of the family.
      telltale: a key that every file of the family has and no other's.
      configs: variant -> configuration.
      table, shapes: configuration -> rules, and shapes of the tree they fill.
      from_torch, to_torch: state dict <-> tree of one configuration.
      split: (tree, variant) -> {part: parameters}; `join` is its inverse.
      files: variant -> name of the public file.
      inside: key of the state dict in the public file; "" where the file is the state dict.
    """

    name: str
    telltale: str
    configs: Mapping[str, Any]
    table: Callable[[Any], list[Rule]]
    shapes: Callable[[Any], Params]
    from_torch: Callable[[Mapping[str, np.ndarray], Any], Any]
    to_torch: Callable[[Any, Any], State]
    split: Callable[[Any, str], dict[str, Params]]
    join: Callable[[Mapping[str, Params], str], Any]
    files: Callable[[str], str]
    inside: str = ""

    def to_parts(self, state: Mapping[str, np.ndarray], variant: str) -> dict[str, Params]:
        """Raises ValueError naming every missing, unused and misshapen key at once."""
        return self.split(self.from_torch(state, self.configs[variant]), variant)

    def to_state(self, parts: Mapping[str, Params], variant: str) -> State:
        """The public state dict of the parts that `to_parts` made."""
        return self.to_torch(self.join(parts, variant), self.configs[variant])

    def layout(self, variant: str) -> dict[str, Shape]:
        """{key: shape} of the public file."""
        cfg = self.configs[variant]
        return rules.torch_shapes(self.shapes(cfg), self.table(cfg))


def _with(params: Params, unused: Params) -> Params:
    return {**params, UNUSED: unused}


def _without(params: Params) -> Params:
    return {name: value for name, value in params.items() if name != UNUSED}


def _split_flow(tree: tuple[Params, mmaudio.LatentStatistics], variant: str) -> dict[str, Params]:
    params, statistics = tree
    return {"mmdit": _with(params, {"latent": statistics._asdict()})}


def _join_flow(parts: Mapping[str, Params], variant: str) -> tuple[Params, mmaudio.LatentStatistics]:
    return _without(parts["mmdit"]), mmaudio.LatentStatistics(**parts["mmdit"][UNUSED]["latent"])


def _split_clip(tree: Params, variant: str) -> dict[str, Params]:
    if variant in CLIP_WITH_TEXT:
        return {"clip": tree["vision"], "text": _with(tree["text"], tree["unused"])}
    return {"clip": _with(tree["vision"], {"text": tree["text"], "rest": tree["unused"]})}


def _join_clip(parts: Mapping[str, Params], variant: str) -> Params:
    if variant in CLIP_WITH_TEXT:
        text, rest = _without(parts["text"]), parts["text"][UNUSED]
    else:
        text, rest = parts["clip"][UNUSED]["text"], parts["clip"][UNUSED]["rest"]
    return {"vision": _without(parts["clip"]), "text": text, "unused": rest}


def _split_judge(tree: Params, variant: str) -> dict[str, Params]:
    """Only the visual branch makes sound; the rest judges it and is a part of its own, which generation never reads."""
    judge = {name: value for name, value in tree["judge"].items() if name != "visual"}
    return {"sync": _with(tree["judge"]["visual"], tree["unused"]), "judge": judge}


def _join_judge(parts: Mapping[str, Params], variant: str) -> Params:
    judge = {**parts["judge"], "visual": _without(parts["sync"])}
    return {"judge": judge, "unused": parts["sync"][UNUSED]}


def _split_sync(tree: Params, variant: str) -> dict[str, Params]:
    return {"sync": _with(tree["visual"], tree["unused"])}


def _join_sync(parts: Mapping[str, Params], variant: str) -> Params:
    return {"visual": _without(parts["sync"]), "unused": parts["sync"][UNUSED]}


def _split_tagger(tree: Params, variant: str) -> dict[str, Params]:
    """A part for each rate, so that one directory can hold both."""
    return {f"panns-{variant}": _with(tree["cnn14"], tree["unused"])}


def _join_tagger(parts: Mapping[str, Params], variant: str) -> Params:
    part = parts[f"panns-{variant}"]
    return {"cnn14": _without(part), "unused": part[UNUSED]}


def _whole(part: str) -> dict[str, Callable]:
    """A tree that is one part."""
    return {"split": lambda tree, variant: {part: tree}, "join": lambda parts, variant: parts[part]}


def _family(name: str, telltale: str, module, **rest) -> Family:
    functions = {key: getattr(module, key) for key in ("table", "shapes", "from_torch", "to_torch")}
    return Family(name, telltale, module.CONFIGS, **functions | rest)


FAMILIES = (
    _family(
        "mmaudio", "audio_input_proj.0.weight", mmaudio, split=_split_flow, join=_join_flow,
        to_torch=lambda tree, cfg: mmaudio.to_torch(*tree, cfg), files=lambda variant: f"mmaudio_{variant}.pth",
    ),
    _family(
        "mmaudio-vae", "decoder.mid.attn_1.qkv.weight", vae, **_whole("vae"),
        files=lambda variant: f"v1-{variant.removesuffix('k')}.pth",
    ),
    _family(
        "bigvgan", "conv_pre.bias", bigvgan, **_whole("vocoder"), inside="generator",
        files=lambda variant: "best_netG.pt" if variant == "16k" else "bigvgan_generator.pt",
    ),
    _family(
        "clip", "visual.conv1.weight", clip, split=_split_clip, join=_join_clip,
        files=lambda variant: "open_clip_model.safetensors",
    ),
    # Before the next, which reads the visual branch of the same file.
    _family(
        "synchformer-whole", "transformer.OFF_tok", synchformer_whole, split=_split_judge, join=_join_judge,
        files=lambda variant: "synchformer_state_dict.pth",
    ),
    _family(
        "synchformer", "vfeat_extractor.patch_embed_3d.proj.weight", synchformer, split=_split_sync, join=_join_sync,
        files=lambda variant: "synchformer_state_dict.pth",
    ),
    # What measures listen with.
    _family(
        "panns", "logmel_extractor.melW", panns, split=_split_tagger, join=_join_tagger, inside="model",
        files=panns.FILES.__getitem__,
    ),
    _family(
        "imagebind", "modality_trunks.audio.blocks.0.attn.bias_k", imagebind, **_whole("imagebind"),
        files=lambda variant: f"imagebind_{variant}.pth",
    ),
    _family("t5", "encoder.final_layer_norm.weight", t5, **_whole("text"), files=lambda variant: "model.safetensors"),
)  # fmt: skip


TELLTALES = frozenset(family.telltale for family in FAMILIES)


def named(name: str) -> Family:
    """The family of that name. Raises ValueError for an unknown one."""
    for family in FAMILIES:
        if family.name == name:
            return family
    raise ValueError(f"family: got {quoted(name)}, expected one of {', '.join(family.name for family in FAMILIES)}")


def recognise(state: Mapping[str, np.ndarray]) -> tuple[Family, str]:
    """Family and variant of a state dict; the nearest variant where none fits exactly.

    `Family.to_parts` then names every difference from it.

    Raises:
      ValueError: no known family.
    """
    family = next((family for family in FAMILIES if family.telltale in state), None)
    if family is None:
        some = ", ".join(quoted(key) for key in sorted(state)[:3]) or "no tensors"
        known = ", ".join(family.name for family in FAMILIES)
        raise ValueError(f"got an unknown kind of weights ({some}, …), expected one of {known}; give such a file")
    got = {key: tuple(value.shape) for key, value in state.items()}

    def distance(variant: str) -> int:
        return len(got.items() ^ family.layout(variant).items())

    return family, min(family.configs, key=distance)
