"""T5 and CLIP against transformers' PyTorch models at small sizes with random weights.

Runs only where torch and transformers are installed (the `dev` extra); everything else in this folder does not need
them, except the token ids of `test_tokenizer.py`.
"""

import jax
import numpy as np
import pytest

from kfjax.convert.tables import clip, t5
from kfjax.encoders.clip import (
    PIXEL_MEAN,
    PIXEL_STD,
    CLIPText,
    CLIPTextConfig,
    CLIPVision,
    CLIPVisionConfig,
)
from kfjax.encoders.t5 import T5Config, T5Encoder, relative_buckets
from kfjax.nn.module import bind
from tests.reference.states import assert_same_bytes

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-5  # relative L2


def distance(got, want):
    want = want.detach().numpy()
    assert got.shape == want.shape
    return np.linalg.norm(np.asarray(got) - want) / np.linalg.norm(want)


def randomised(model, std=0.3):
    """The model with every tensor drawn anew, norms and biases included, and its weights as numpy arrays."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter.shape[-1] if parameter.ndim > 1 else 1
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, std if parameter.ndim == 1 else fan_in**-0.5)
    return model.eval(), {name: value.numpy() for name, value in model.state_dict().items()}


def open_clip_state(w, prefix):
    """One tower of transformers under open_clip's names: q, k and v are one matrix there."""
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    names["self_attn.out_proj"] = "attn.out_proj"
    state = {}
    for key, value in w.items():
        layer, _, name = key.removeprefix(f"{prefix}.encoder.layers.").partition(".")
        if not layer.isdigit():
            continue
        module, kind = name.rsplit(".", 1)
        if module in names:
            state[f"resblocks.{layer}.{names[module]}.{kind}"] = value
        elif module == "self_attn.q_proj":
            parts = [w[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            state[f"resblocks.{layer}.attn.in_proj_{kind}"] = np.concatenate(parts)
    return state


def open_clip_file(w):
    """A whole CLIPModel of transformers as open_clip's file."""
    v, t = "vision_model", "text_model"
    state = {
        "visual.conv1.weight": w[f"{v}.embeddings.patch_embedding.weight"],
        "visual.class_embedding": w[f"{v}.embeddings.class_embedding"],
        "visual.positional_embedding": w[f"{v}.embeddings.position_embedding.weight"],
        "visual.proj": w["visual_projection.weight"].T,
        "token_embedding.weight": w[f"{t}.embeddings.token_embedding.weight"],
        "positional_embedding": w[f"{t}.embeddings.position_embedding.weight"],
        "text_projection": w["text_projection.weight"].T,
        "logit_scale": w["logit_scale"],
    }
    for kind in ("weight", "bias"):
        state[f"visual.ln_pre.{kind}"] = w[f"{v}.pre_layrnorm.{kind}"]
        state[f"visual.ln_post.{kind}"] = w[f"{v}.post_layernorm.{kind}"]
        state[f"ln_final.{kind}"] = w[f"{t}.final_layer_norm.{kind}"]
    state |= {f"visual.transformer.{key}": value for key, value in open_clip_state(w, v).items()}
    return state | {f"transformer.{key}": value for key, value in open_clip_state(w, t).items()}


@pytest.mark.parametrize("length", [7, 90])
def test_t5(length):
    cfg = T5Config(vocab=50, width=24, depth=3, heads=4, head_dim=8, hidden=40, buckets=16, max_distance=32)
    theirs = transformers.T5Config(
        vocab_size=50, d_model=24, d_kv=8, d_ff=40, num_layers=3, num_heads=4, dropout_rate=0.0,
        relative_attention_num_buckets=16, relative_attention_max_distance=32, feed_forward_proj="relu",
    )  # fmt: skip
    model, w = randomised(transformers.T5EncoderModel(theirs))
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 50, (3, length)).astype(np.int32)
    mask = np.arange(length) < np.array([[length], [length // 2], [1]])
    want = model(input_ids=torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long()).last_hidden_state
    params = t5.FAMILY.from_torch(w, cfg)["text"]
    got = bind(T5Encoder, cfg, params)(ids, mask)
    assert distance(got, want) < TOLERANCE
    written = {name: torch.tensor(value) for name, value in t5.FAMILY.to_torch({"text": params}, cfg).items()}
    missing, unexpected = model.load_state_dict(written, strict=False)
    assert (set(missing) - {t5.COPY}, unexpected) == (set(), [])


def test_t5_buckets_to_far_distances():
    module = transformers.models.t5.modeling_t5.T5Attention
    offset = torch.arange(700)[None, :] - torch.arange(700)[:, None]
    want = module._relative_position_bucket(offset, bidirectional=True, num_buckets=32, max_distance=128)
    np.testing.assert_array_equal(relative_buckets(700, 32, 128), want.numpy())


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip(activation):
    tower = {"width": 24, "depth": 3, "heads": 4, "mlp_width": 50, "activation": activation, "normalize": False}
    cfg = clip.CLIPConfig(
        vision=CLIPVisionConfig(size=30, patch=8, out_dim=10, **tower),
        text=CLIPTextConfig(vocab=60, length=20, **tower),
    )
    sizes = {"hidden_size": 24, "intermediate_size": 50, "num_hidden_layers": 3, "num_attention_heads": 4}
    sizes["hidden_act"] = activation
    ends = {"eos_token_id": 59, "bos_token_id": 58, "pad_token_id": 0}
    theirs = transformers.CLIPConfig(
        vision_config=sizes | {"image_size": 30, "patch_size": 8},
        text_config=sizes | ends | {"vocab_size": 60, "max_position_embeddings": 20},
        projection_dim=10,
    )
    model, w = randomised(transformers.CLIPModel(theirs))
    ours = clip.from_transformers(w)
    assert_same_bytes(ours, open_clip_file(w))  # two ways to the one layout
    parts = clip.FAMILY.from_torch(ours, cfg)
    del parts["text"]["unused"]

    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 30, 30, 3), np.uint8)
    pixels = (torch.tensor(frames).float() / 255 - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)
    pooled = model.vision_model(pixel_values=pixels.flatten(0, 1).permute(0, 3, 1, 2)).pooler_output
    want = model.visual_projection(pooled).view(2, 3, 10)
    vision = jax.jit(bind(CLIPVision, cfg.vision, parts["clip"]))
    text = jax.jit(bind(CLIPText, cfg.text, jax.device_put(parts["text"])))
    assert distance(vision(frames), want) < TOLERANCE

    ids = np.random.default_rng(0).integers(0, 60, (3, 20)).astype(np.int32)
    want = model.text_model(input_ids=torch.tensor(ids).long()).last_hidden_state
    assert distance(text(ids), want) < TOLERANCE
    assert distance(text(ids[:, :9]), want[:, :9]) < TOLERANCE  # causal: later tokens do not matter
