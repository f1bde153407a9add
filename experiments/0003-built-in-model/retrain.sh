#!/usr/bin/env bash
# Retrains the built-in model from nothing and measures it. Every step resumes: run it again after a stop.
# Two CPU cores: rendering 10 min, Mel-VAE 15 min, vocoder 1 h, generator 2.5 h, evaluation 20 min.
set -euo pipefail
cd "$(dirname "$0")/../.."
runs=${1:-runs}
python=${PYTHON:-python3}
kfjax="$python -m kfjax"
here=experiments/0003-built-in-model

$python -m kfjax.scenes --corpus "$runs/scenes" --count 7300 --seed 1 --split train \
    --durations 4:4000 8:1000 2.5:1200 13:300 1:800
$python -m kfjax.scenes --corpus "$runs/panel" --count 120 --seed 2 --split heldout --durations 4:1

vae=$runs/vae/vae.safetensors
vocoder=$runs/vocoder/vocoder.safetensors
tokenizer=$runs/tokenizer.json

$kfjax train configs/codec.py --workdir "$runs/vae" --set "data.folder=$runs/scenes"
$kfjax train configs/codec.py:vocoder --workdir "$runs/vocoder" --set "data.folder=$runs/waves"
flow() {
    $kfjax train configs/flow.py --workdir "$runs/flow" --set "data.folder=$runs/scenes" "data.heldout=$runs/panel" \
        "data.tokenizer=$tokenizer" "data.vae=$vae" "data.vocoder=$vocoder" "$@"
}
# Short scenes first: most events a second of training. Then all durations, the rate falling over the last 2000 steps.
flow loop.steps=2400 optim.decay_steps=0 "data.buckets=((4.0, 1.0),)"
flow

assemble() {
    $python -m experiments 0003/assemble --flow "$runs/flow" --vae "$vae" --vocoder "$vocoder" --tokenizer "$tokenizer" "$@"
}
assemble
$python -m experiments 0003/evaluate kfjax/assets/model --corpus "$runs/heldout" --output $here/results.json
assemble --results $here/results.json
