#!/usr/bin/env bash
# The dial when on the rendered world, end to end: every network, for every seed, then the tables.
#   [VENV=DIR] [WORKDIR=DIR] launch/when.sh [SEED…]      seeds 0 1 2 by default
# What is finished is not started again, what was stopped goes on: call it as often as you like.
# CLIPS are held out, 64 by default: making sound for them takes its time.
# FLAGS holds further flags of all trainings, as in FLAGS=--config.steps=20 for a first look.
set -eu
: "${WORKDIR:=runs/when}" "${CLIPS:=64}" "${FLAGS:=}"
FLAGS+=" --config.data.options.test=$CLIPS"
python=${VENV:+$VENV/bin/}python
(($#)) || set -- 0 1 2

train() { # CONFIG RUN FLAGS…
  [[ -e $place/$2/finished ]] && return
  # shellcheck disable=SC2086  # FLAGS are words
  "$python" -m weavejax.train --config "configs/$1" --workdir "$place/$2" \
    --config.seed="$seed" $FLAGS "${@:3}"
  touch "$place/$2/finished"
}
extract() { # CONFIG FEATURES FLAGS…
  # shellcheck disable=SC2086
  "$python" -m weavejax.extract --config "configs/$1" --out "$place/$2" $FLAGS "${@:3}"
}
result() { # RUN NAME
  "$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["results"][sys.argv[2]])' \
    "$place/$1/results.json" "$2"
}
evaluate() { # RUN, under what RUN predicts
  [[ -e $place/$1/predicted ]] && return
  "$python" -m weavejax.evaluate --workdir "$place/$1" --when "$place/$2"
  touch "$place/$1/predicted"
}

for seed; do
  place=$WORKDIR/$seed
  train onset.py onset
  train syncfusion.py syncfusion
  evaluate syncfusion onset
  train envelope.py envelope
  train oobleck.py oobleck
  train gram.py gram
  words=--config.inputs.tokenizer=$place/gram/tokenizer.json
  parts=("$words" --config.init.parts.oobleck="$place/oobleck"
    --config.init.parts.text="$place/gram" --config.init.parts.vision="$place/gram")
  kept=(--config.model.flip=False --config.inputs.kind=latents
    --config.inputs.root="$place/latents"
    --config.model.latent_scale="$(result oobleck latents/scale)")
  [[ -e $place/folai/finished ]] || extract folai.py:base latents "${parts[@]}"
  train folai.py:base base "${parts[@]}" "${kept[@]}"
  train folai.py folai "$words" --config.init.weights="$place/base" "${kept[@]}"
  evaluate folai envelope
done
"$python" -m weavejax.evaluate --tables "$WORKDIR"
