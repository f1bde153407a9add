"""Time of the 44 kHz BigVGAN, Synchformer's visual branch and the 44 kHz VAE's decoder on a CPU, beside PyTorch eager.

    python -m experiments 0005 [--seconds 8] [--rounds 3] [--threads 2] [--only vae]

Both hold the same random weights, BigVGAN's folded in PyTorch, and get the same input; their outputs must agree before
anything is timed. Beside the VAE stands its floor: the matrix products of the decoder's convolutions, and nothing else.
"""

from __future__ import annotations

import argparse

from experiments import harness


def random_state(module, cfg, scale: float):
    """Random weights in the public layout."""
    import numpy as np

    from kfjax.convert import rules

    rng = np.random.default_rng(0)
    layout = rules.torch_shapes(module.shapes(cfg), module.table(cfg))
    state = {key: np.asarray(scale * rng.standard_normal(shape), np.float32) for key, shape in layout.items()}
    return {key: abs(x) + 0.5 if key.endswith("std") else x for key, x in state.items()}


def grouped_attention(attention, x, cfg, axis: str):
    """Divided attention as it is written for speed: CLS sees all, every token its own group and CLS."""
    import torch
    import torch.nn.functional as F

    def split(tokens):
        tokens = tokens.unflatten(2, (cfg.steps, cfg.cells))
        if axis == "time":
            tokens = tokens.transpose(2, 3)
        return tokens.permute(0, 2, 1, 3, 4).flatten(0, 1)

    batch = len(x)
    q, k, v = attention.qkv(x).unflatten(-1, (3, cfg.heads, -1)).permute(2, 0, 3, 1, 4)
    first = F.scaled_dot_product_attention(q[:, :, :1], k, v)
    groups = cfg.cells if axis == "time" else cfg.steps
    cls = [tokens[:, :, :1].repeat_interleave(groups, 0) for tokens in (k, v)]
    keys, values = (torch.cat([own, split(tokens[:, :, 1:])], 2) for own, tokens in zip(cls, (k, v), strict=True))
    rest = F.scaled_dot_product_attention(split(q[:, :, 1:]), keys, values)
    rest = rest.unflatten(0, (batch, groups)).permute(0, 2, 1, 3, 4)
    if axis == "time":
        rest = rest.transpose(2, 3)
    made = torch.cat([first, rest.flatten(2, 3)], 2)
    return attention.proj(made.transpose(1, 2).flatten(2))


def bigvgan_pair(seconds: float):
    """(PyTorch, kfjax): functions of nothing that make a waveform of a random mel."""
    import jax
    import numpy as np
    import torch

    from kfjax.codec.bigvgan import BigVGAN
    from kfjax.convert.tables.bigvgan import CONFIGS, FAMILY
    from kfjax.nn.module import bind
    from tests.reference.bigvgan import TorchBigVGAN

    cfg = CONFIGS["44k"]
    theirs = TorchBigVGAN(cfg).randomise(0).fold().eval()
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    params = jax.device_put(FAMILY.from_torch(state, cfg)["vocoder"])
    mel = np.random.default_rng(0).standard_normal((1, round(seconds * 44100 / cfg.hop), cfg.bands), np.float32)
    for_torch = torch.from_numpy(mel.transpose(0, 2, 1).copy())
    run = jax.jit(lambda params, mel: bind(BigVGAN, cfg, params)(mel))

    def eager():
        with torch.inference_mode():
            return theirs(for_torch).numpy()

    return eager, lambda: np.asarray(run(params, mel))


def synchformer_pair(seconds: float):
    """(PyTorch, kfjax): functions of nothing that make the sync tokens [1 s 768]."""
    import jax
    import numpy as np
    import torch
    import torch.nn.functional as F

    from kfjax.convert.tables import synchformer
    from kfjax.encoders.synchformer import Synchformer
    from kfjax.nn.module import bind
    from tests.reference.synchformer import Visual

    cfg = synchformer.CONFIGS["synchformer"]
    state = random_state(synchformer, cfg, 0.03)
    params = jax.device_put(synchformer.FAMILY.from_torch(state, cfg)["sync"])
    del params["unused"]
    frames = np.random.default_rng(1).integers(0, 256, (1, int(25 * seconds), cfg.size, cfg.size, 3), np.uint8)
    theirs = Visual(cfg).eval()
    own = {key.removeprefix(synchformer.VISUAL): torch.from_numpy(value) for key, value in state.items()}
    theirs.load_state_dict(own, strict=True)
    for block in theirs.blocks:

        def forward(x, *_, block=block):
            x = x + grouped_attention(block.timeattn, block.norm3(x), cfg, "time")
            x = x + grouped_attention(block.attn, block.norm1(x), cfg, "space")
            return x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))

        block.forward = forward
    pixels = torch.from_numpy(frames).float()
    run = jax.jit(lambda params: bind(Synchformer, cfg, params)(frames))

    def eager():
        with torch.inference_mode():
            return theirs(pixels).flatten(1, 2).numpy()

    return eager, lambda: np.asarray(run(params))


def vae_pair(seconds: float):
    """(PyTorch, kfjax): functions of nothing that decode latents to a log-mel [1 f 128]."""
    import jax
    import numpy as np
    import torch

    from kfjax.codec.vae import MelVAE
    from kfjax.convert.tables import vae
    from kfjax.nn.module import bind
    from tests.reference.vae import VAE

    cfg = vae.CONFIGS["44k"]
    state = random_state(vae, cfg, 1.0)
    latent = {"latent_mean": np.zeros(cfg.latent_dim, np.float32), "latent_std": np.ones(cfg.latent_dim, np.float32)}
    params = jax.device_put(vae.FAMILY.from_torch(state, cfg)["vae"] | latent)
    theirs = VAE(cfg).eval()
    theirs.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()}, strict=True)
    x = np.random.default_rng(1).standard_normal((1, round(seconds * 44100 / 1024), cfg.latent_dim), np.float32)
    for_torch = torch.from_numpy(x.transpose(0, 2, 1).copy())
    run = jax.jit(lambda params, x: bind(MelVAE, cfg, params).decode(x))

    def eager():
        with torch.inference_mode():
            return theirs.decode(for_torch).numpy().transpose(0, 2, 1)

    return eager, lambda: np.asarray(run(params, x))


def vae_floor(seconds: float):
    """A function of nothing that does the decoder's matrix products: every convolution's taps side by side."""
    import jax
    import numpy as np

    from kfjax.codec.vae import MelVAE
    from kfjax.convert.tables import vae
    from kfjax.nn.module import flatten, shapes

    latents = round(seconds * 44100 / 1024)
    fine = ("up/0/", "up/1/upsample", "conv_out")  # these run at the mel's rate
    kernels = flatten(shapes(MelVAE, vae.CONFIGS["44k"])["decoder"])
    sizes = [
        (latents * (2 if name.startswith(fine) else 1), int(np.prod(leaf.shape[:2])), leaf.shape[2])
        for name, leaf in kernels.items() if len(leaf.shape) == 3
    ]  # fmt: skip
    print(f"floor: {len(sizes)} products, {sum(2 * a * b * c for a, b, c in sizes) / 1e9:.0f} GFLOP")
    rng = np.random.default_rng(0)
    pairs = [(rng.standard_normal((a, b), np.float32), rng.standard_normal((b, c), np.float32)) for a, b, c in sizes]
    pairs = jax.device_put(pairs)
    run = jax.jit(lambda pairs: [x @ kernel for x, kernel in pairs])
    return lambda: jax.block_until_ready(run(pairs))


PARTS = {"bigvgan": bigvgan_pair, "synchformer": synchformer_pair, "vae": vae_pair}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="of the clip")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=PARTS)
    args = parser.parse_args()
    harness.use_threads(args.threads)
    for name in [args.only] if args.only else PARTS:
        more = {"floor": vae_floor(args.seconds)} if name == "vae" else {}
        harness.beside_torch(name, *PARTS[name](args.seconds), args.rounds, **more)
