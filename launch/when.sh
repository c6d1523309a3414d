#!/usr/bin/env bash
# The dial when on the rendered world, end to end: every network, for every seed, then the tables.
#   [VENV=DIR] [WORKDIR=DIR] launch/when.sh [SEED…]      seeds 0 1 2 by default
# What is finished is not started again, what was stopped goes on: call it as often as you like.
# JOBS=2 trains what looks for moments beside what makes sound, each on half of the cores: for CPUs.
# CLIPS are held out, 64 by default: making sound for them takes its time.
# FLAGS holds further flags of all trainings, as in FLAGS=--config.steps=20 for a first look.
set -eu
export WORKDIR="${WORKDIR:-runs/when}" CLIPS="${CLIPS:-64}" JOBS="${JOBS:-1}" PART="${PART-}"
flags="${FLAGS-} --config.data.options.test=$CLIPS" python=${VENV:+$VENV/bin/}python
(($#)) || set -- 0 1 2

train() { # CONFIG RUN FLAGS…
  [[ -e $place/$2/finished ]] && return
  # shellcheck disable=SC2086  # flags are words
  "$python" -m weavejax.train --config "configs/$1" --workdir "$place/$2" \
    --config.seed="$seed" $flags "${@:3}"
  touch "$place/$2/finished"
}
evaluate() { # RUN, under what RUN predicts
  [[ -e $place/$1/predicted ]] && return
  "$python" -m weavejax.evaluate --workdir "$place/$1" --when "$place/$2"
  touch "$place/$1/predicted"
}
moments() {
  train envelope.py envelope
  train onset.py onset
  train syncfusion.py syncfusion
  evaluate syncfusion onset
}
sound() {
  train oobleck.py oobleck
  train gram.py gram
  local read='import json, sys; print(json.load(open(sys.argv[1]))["results"]["latents/scale"])'
  local scale words=--config.inputs.tokenizer=$place/gram/tokenizer.json
  scale=$("$python" -c "$read" "$place/oobleck/results.json")
  local parts=("$words" --config.init.parts.oobleck="$place/oobleck"
    --config.init.parts.text="$place/gram" --config.init.parts.vision="$place/gram")
  local kept=(--config.model.flip=False --config.inputs.kind=latents
    --config.inputs.root="$place/latents" --config.model.latent_scale="$scale")
  # shellcheck disable=SC2086
  [[ -e $place/folai/finished ]] || "$python" -m weavejax.extract --config configs/folai.py:base \
    --out "$place/latents" $flags "${parts[@]}"
  train folai.py:base base "${parts[@]}" "${kept[@]}"
  train folai.py folai "$words" --config.init.weights="$place/base" "${kept[@]}"
}

for seed; do
  place=$WORKDIR/$seed
  [[ -z $PART ]] || { "$PART"; continue; }
  if ((JOBS > 1)); then
    # shellcheck disable=SC2086
    "$python" -m weavejax.prepare --config configs/onset.py $flags # once, not by both
    "${0%/*}/beside.sh" "PART=moments $0 $seed" "PART=sound $0 $seed"
  else moments; sound; fi
  evaluate folai envelope
done
[[ -n $PART ]] || "$python" -m weavejax.evaluate --tables "$WORKDIR"
