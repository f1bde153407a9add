"""T5 and CLIP against transformers' PyTorch models at small sizes with random weights.

Runs only where torch and transformers are installed (the `dev` extra); everything else in this folder does not need
them, except the token ids of `test_tokenizer.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax.encoders.clip import (
    PIXEL_MEAN,
    PIXEL_STD,
    CLIPText,
    CLIPTextConfig,
    CLIPVision,
    CLIPVisionConfig,
)
from kfjax.encoders.t5 import T5Config, T5Encoder, relative_buckets
from kfjax.module import bind

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


def layers(tree, depth):
    """`tree(i)` of every layer, leaves stacked."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(tree(i) for i in range(depth)))


def t5_params(w, depth):
    def block(i):
        attention, forward = f"encoder.block.{i}.layer.0.", f"encoder.block.{i}.layer.1."
        return {
            "norm1": {"scale": w[attention + "layer_norm.weight"]},
            "norm2": {"scale": w[forward + "layer_norm.weight"]},
            "attention": {k: {"kernel": w[f"{attention}SelfAttention.{k}.weight"].T} for k in "qkvo"},
            "feed_forward": {k: {"kernel": w[f"{forward}DenseReluDense.{k}.weight"].T} for k in ("wi", "wo")},
        }

    return {
        "embed": {"embedding": w["shared.weight"]},
        "relative_bias": w["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"],
        "blocks": layers(block, depth),
        "norm": {"scale": w["encoder.final_layer_norm.weight"]},
    }


def dense(w, name):
    return {"kernel": w[f"{name}.weight"].T, "bias": w[f"{name}.bias"]}


def norm(w, name):
    return {"scale": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}


def clip_blocks(w, prefix, depth):
    def block(i):
        at = f"{prefix}.layers.{i}."
        parts = [dense(w, f"{at}self_attn.{k}_proj") for k in "qkv"]
        return {
            "ln_1": norm(w, at + "layer_norm1"),
            "ln_2": norm(w, at + "layer_norm2"),
            "attn": {
                "in_proj": {k: np.concatenate([p[k] for p in parts], -1) for k in ("kernel", "bias")},
                "out_proj": dense(w, at + "self_attn.out_proj"),
            },
            "mlp": {"c_fc": dense(w, at + "mlp.fc1"), "c_proj": dense(w, at + "mlp.fc2")},
        }

    return layers(block, depth)


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
    got = bind(T5Encoder, cfg, t5_params(w, 3))(ids, mask)
    assert distance(got, want) < TOLERANCE


def test_t5_buckets_to_far_distances():
    module = transformers.models.t5.modeling_t5.T5Attention
    offset = torch.arange(700)[None, :] - torch.arange(700)[:, None]
    want = module._relative_position_bucket(offset, bidirectional=True, num_buckets=32, max_distance=128)
    np.testing.assert_array_equal(relative_buckets(700, 32, 128), want.numpy())


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip_vision(activation):
    cfg = CLIPVisionConfig(
        size=30, patch=8, width=24, depth=3, heads=4, mlp_width=50, out_dim=10, activation=activation, normalize=False
    )
    theirs = transformers.CLIPVisionConfig(
        hidden_size=24, intermediate_size=50, projection_dim=10, num_hidden_layers=3, num_attention_heads=4,
        image_size=30, patch_size=8, hidden_act=activation,
    )  # fmt: skip
    model, w = randomised(transformers.CLIPVisionModelWithProjection(theirs))
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 30, 30, 3), np.uint8)
    pixels = (torch.tensor(frames).float() / 255 - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)
    want = model(pixel_values=pixels.flatten(0, 1).permute(0, 3, 1, 2)).image_embeds.view(2, 3, 10)
    v = "vision_model"
    kernel = w[f"{v}.embeddings.patch_embedding.weight"]
    params = {
        "conv1": {"kernel": kernel.transpose(2, 3, 1, 0).reshape(-1, 24)},
        "class_embedding": w[f"{v}.embeddings.class_embedding"],
        "positional_embedding": w[f"{v}.embeddings.position_embedding.weight"],
        "ln_pre": norm(w, f"{v}.pre_layrnorm"),
        "ln_post": norm(w, f"{v}.post_layernorm"),
        "blocks": clip_blocks(w, f"{v}.encoder", 3),
        "proj": w["visual_projection.weight"].T,
    }
    assert distance(bind(CLIPVision, cfg, params)(frames), want) < TOLERANCE


def test_clip_text():
    cfg = CLIPTextConfig(vocab=60, length=20, width=24, depth=3, heads=4, mlp_width=50, normalize=False)
    theirs = transformers.CLIPTextConfig(
        vocab_size=60, hidden_size=24, intermediate_size=50, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=20, hidden_act="quick_gelu", eos_token_id=59, bos_token_id=58, pad_token_id=0,
    )  # fmt: skip
    model, w = randomised(transformers.CLIPTextModel(theirs))
    ids = np.random.default_rng(0).integers(0, 60, (3, 20)).astype(np.int32)
    want = model(input_ids=torch.tensor(ids).long()).last_hidden_state
    w = {name.removeprefix("text_model."): value for name, value in w.items()}  # a prefix of older versions
    params = {
        "token_embedding": {"embedding": w["embeddings.token_embedding.weight"]},
        "positional_embedding": w["embeddings.position_embedding.weight"],
        "blocks": clip_blocks(w, "encoder", 3),
        "ln_final": norm(w, "final_layer_norm"),
    }
    assert distance(bind(CLIPText, cfg, params)(ids), want) < TOLERANCE
    short = bind(CLIPText, cfg, params)(jnp.asarray(ids[:, :9]))
    assert distance(short, want[:, :9]) < TOLERANCE  # causal: later tokens do not matter
