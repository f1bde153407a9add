"""Frames and captions become what the generator reads: the one place, for training and for generation.

The networks are imported where they are traced: a generation whose programs are kept needs none of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from kfjax.encoders.configs import CLIPTextConfig
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.media import FrameSpec
from kfjax.nn.alignment import align
from kfjax.nn.module import Params, bind
from kfjax.rates import Lengths
from kfjax.structs import Array, Excerpt, Features, Given, Video
from kfjax.system import SystemConfig


def frame_specs(cfg: SystemConfig) -> tuple[FrameSpec, FrameSpec]:
    """How frames are decoded for the clip and the sync encoder."""
    return (
        FrameSpec(cfg.rates.clip_hz, cfg.clip.size, cfg.clip_resize),
        FrameSpec(cfg.rates.sync_hz, cfg.sync.size, cfg.sync_resize),
    )


def make_excerpt(
    cfg: SystemConfig,
    tokenizer: Tokenizer,
    lengths: Lengths,
    seconds: float,
    video: Video | None,
    prompts: Sequence[str],
) -> Excerpt:
    """A batch of one excerpt per prompt, all of the same video (or of none) and duration.

    An empty prompt is no prompt.
    """
    b = len(prompts)
    ids, mask = tokenizer.encode(list(prompts))
    if video is None:
        clip = np.zeros((b, lengths.clip, cfg.clip.size, cfg.clip.size, 3), np.uint8)
        sync = np.zeros((b, lengths.sync_frames, cfg.sync.size, cfg.sync.size, 3), np.uint8)
    else:
        clip = np.broadcast_to(video.clip_frames, (b, *video.clip_frames.shape))
        sync = np.broadcast_to(video.sync_frames, (b, *video.sync_frames.shape))
    return Excerpt(
        clip_frames=clip,
        sync_frames=sync,
        text_ids=ids,
        given=Given.whole(mask, seconds)._replace(
            has_video=np.full(b, video is not None), has_text=np.array([bool(prompt.strip()) for prompt in prompts])
        ),
    )


def encode_text(params: Params, cfg: SystemConfig, ids: Array, mask: Array) -> tuple[Array, Array]:
    """(hidden states [b l ·], mask [b l]) of token ids and their mask. CLIP was trained with its padding, as text."""
    from kfjax.encoders.clip import CLIPText
    from kfjax.encoders.t5 import T5Encoder

    if isinstance(cfg.text, CLIPTextConfig):
        hidden = bind(CLIPText, cfg.text, params)(ids)
        return hidden, jnp.ones(hidden.shape[:2], bool)
    return bind(T5Encoder, cfg.text, params)(ids, mask), jnp.asarray(mask)


def encode(params: Params, cfg: SystemConfig, excerpt: Excerpt) -> Features:
    """Run the three encoders. `params` has the parts clip, sync and text."""
    from kfjax.encoders.clip import CLIPVision
    from kfjax.encoders.synchformer import Synchformer

    text, mask = encode_text(params["text"], cfg, excerpt.text_ids, excerpt.given.text_mask)
    return Features(
        clip=bind(CLIPVision, cfg.clip, params["clip"])(excerpt.clip_frames),
        sync=bind(Synchformer, cfg.sync, params["sync"])(excerpt.sync_frames),
        text=text,
        given=jax.tree.map(jnp.asarray, excerpt.given._replace(text_mask=mask)),
    )


def seen_by_stereo(cfg: SystemConfig, encoded: Features, latents: int) -> jax.Array:
    """The per-frame features that Mono2Stereo reads, evenly spaced in time at `cfg.codec.stereo.clip_hz`.

    "clip": the clip encoder's, as they are [b v ·]; "sync": the sync tokens at their true times, one a latent [b n ·].
    """
    if cfg.stereo_sees == "clip":
        return jnp.asarray(encoded.clip)
    return align(jnp.asarray(encoded.sync), latents, "timed", cfg.rates)
