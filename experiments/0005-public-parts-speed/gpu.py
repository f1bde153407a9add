"""Time of every stage of a published system on an accelerator: random weights of the true layout, bfloat16.

    python -m experiments 0005/gpu [--model mmaudio-large-44k-v2] [--seconds 8] [--rounds 5]
    python -m experiments 0005/gpu --small                 # tiny sizes, on a CPU too

Prints a table of seconds a stage and of the whole clip. Where PyTorch with CUDA is there, the flow network, the VAE's
decoder and the vocoder are also timed in PyTorch, eager and compiled, on the same card.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from experiments import harness

STEPS, GUIDANCE = 25, 4.5


def small(cfg):
    """The same kinds of parts, tiny."""
    from tests.tiny import public

    codec = replace(cfg.codec, vae=public.VAE, vocoder=public.VOCODER)
    towers = {"clip": public.TOWERS.vision, "text": public.TOWERS.text}
    return replace(cfg, mmdit=public.FLOW, sync=public.SYNC, codec=codec, **towers, name="small")


def random_params(cfg, dtype):
    """Weights of every part, made on the device; the codec's stay in float32."""
    import jax
    import jax.numpy as jnp

    from kfjax.nn import module

    made = {}
    for index, (name, part) in enumerate(cfg.parts().items()):
        draw = jax.jit(lambda key, part=part: module.init(*part, key))
        params = draw(jax.random.key(index))
        keep = name in cfg.codec.parts()
        made[name] = params if keep else jax.tree.map(lambda x: x.astype(dtype), params)
        jax.block_until_ready(made[name])
    return jax.tree.map(jnp.asarray, made)


def stages(cfg, params, seconds: float):
    """Stage -> a function of nothing; each takes the results of those before it."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from kfjax import generation, rates
    from kfjax.encoders.clip import CLIPText, CLIPVision
    from kfjax.encoders.synchformer import Synchformer
    from kfjax.flow import sampler
    from kfjax.nn.module import bind
    from kfjax.structs import Features, Given, Noise

    lengths = rates.lengths(seconds, cfg.rates)
    rng = np.random.default_rng(0)
    picture = lambda count, size: jax.device_put(rng.integers(0, 256, (1, count, size, size, 3), np.uint8))
    clip_frames, sync_frames = picture(lengths.clip, cfg.clip.size), picture(lengths.sync_frames, cfg.sync.size)
    ids = jnp.zeros((1, cfg.text_tokens), jnp.int32)
    see = jax.jit(lambda p, x: bind(CLIPVision, cfg.clip, p)(x))
    align = jax.jit(lambda p, x: bind(Synchformer, cfg.sync, p)(x))
    read = jax.jit(lambda p, x: bind(CLIPText, cfg.text, p)(x))
    clip, sync, text = see(params["clip"], clip_frames), align(params["sync"], sync_frames), read(params["text"], ids)
    here, zero = jnp.ones(1, bool), jnp.zeros(1)
    given = Given(jnp.ones((1, cfg.text_tokens), bool), zero, zero + seconds, here, here)
    features = Features(clip, sync, text, given)
    weights = np.array([GUIDANCE, 1 - GUIDANCE], np.float32)
    noise = generation.draw(Noise(*np.zeros((2, 1), np.uint32)), shape=(lengths.latents, cfg.mmdit.latent_dim))
    sample = lambda: generation.sample(
        params["mmdit"], features, None, weights, sampler.schedule(STEPS), noise,
        cfg=cfg, branches=("full", "empty"), method="euler",
    )  # fmt: skip
    latents = sample()
    codec = {name: params[name] for name in cfg.codec.parts()}
    decode = jax.jit(lambda p, x: bind(*cfg.parts()["vae"], p).decode(x))
    mel = decode(codec["vae"], latents)
    vocode = jax.jit(lambda p, x: bind(*cfg.parts()["vocoder"], p)(x))
    return {
        "CLIP, frames": lambda: see(params["clip"], clip_frames),
        "Synchformer": lambda: align(params["sync"], sync_frames),
        "CLIP, text": lambda: read(params["text"], ids),
        f"flow, {STEPS} guided steps": sample,
        "VAE decoder": lambda: decode(codec["vae"], latents),
        "vocoder": lambda: vocode(codec["vocoder"], mel),
    }


def torch_stages(cfg, seconds: float):
    """The flow, the VAE's decoder and the vocoder in PyTorch, where it has the card; {} elsewhere."""
    try:
        import torch
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}

    from kfjax import rates
    from tests.reference.bigvgan import TorchBigVGAN
    from tests.reference.vae import VAE

    lengths = rates.lengths(seconds, cfg.rates)
    vae, vocoder = VAE(cfg.codec.vae).cuda().eval(), TorchBigVGAN(cfg.codec.vocoder).randomise(0).fold().cuda().eval()
    latents = torch.randn(1, cfg.mmdit.latent_dim, lengths.latents, device="cuda")
    mel = torch.randn(1, cfg.codec.mel.bands, lengths.mel, device="cuda")
    made = {"VAE decoder": (vae.decode, latents), "vocoder": (vocoder, mel)}
    ways = {"eager": lambda f: f, "compiled": torch.compile}

    def call(f, x):
        def run():
            with torch.inference_mode():
                y = f(x)
            torch.cuda.synchronize()
            return y.shape

        return run

    return {f"{name}, PyTorch {way}": call(how(f), x) for name, (f, x) in made.items() for way, how in ways.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mmaudio-large-44k-v2")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="a tiny system, to see that it works")
    args = parser.parse_args()
    import jax

    from kfjax.convert.systems import SYSTEMS

    cfg = next(cfg for cfg in SYSTEMS.values() if cfg.name == args.model)
    cfg, args.seconds, args.rounds = (small(cfg), 1.0, 1) if args.small else (cfg, args.seconds, args.rounds)
    print(jax.devices()[0].device_kind, jax.__version__, cfg.name)
    ours, total = stages(cfg, random_params(cfg, "bfloat16"), args.seconds), 0.0
    for name, run in (ours | torch_stages(cfg, args.seconds)).items():
        taken = harness.medians(harness.in_turn({name: run}, args.rounds))[name]
        total += taken if name in ours else 0.0
        print(f"{name:32}{taken:10.4f} s", flush=True)
    print(f"{'the whole clip':32}{total:10.4f} s")
