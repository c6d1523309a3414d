#!/usr/bin/env bash
# A run on a TPU VM slice: made, prepared and started; made anew when it is preempted.
#   export NAME=weavejax ZONE=us-east5-b TYPE=v6e-16 CONFIG=configs/gram.py WORKDIR=gs://BUCKET/gram
#   launch/tpu_vm.sh [FLAGS…]            # again after any interruption
#   gcloud compute tpus queued-resources delete "$NAME" --zone "$ZONE" --force    # when done
set -euo pipefail
: "${NAME:?}" "${ZONE:?}" "${TYPE:?as in TYPE=v6e-16}" "${CONFIG:?}" "${WORKDIR:?}"
: "${RUNTIME:=v2-alpha-tpuv6e}"  # fits TYPE: gcloud compute tpus versions list --zone "$ZONE"
[[ $WORKDIR == gs://* ]] || { echo "WORKDIR must be gs://…: the hosts share no disk" >&2; exit 2; }
here=$(dirname "$0")/..
queue() { gcloud compute tpus queued-resources "$1" "$NAME" --zone "$ZONE" "${@:2}"; }
on_all() { gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker=all --command "$1"; }
send() { gcloud compute tpus tpu-vm scp "$1" "$NAME:" --zone "$ZONE" --worker=all; }
state() { queue describe --format 'value(state.state)' 2>/dev/null || echo ABSENT; }

make() { # waits in Google's queue as long as it takes
  [[ $(state) == ABSENT ]] || queue delete --force --quiet
  queue create --node-id "$NAME" --accelerator-type "$TYPE" --runtime-version "$RUNTIME" --spot
  until [[ $(state) == ACTIVE ]]; do
    [[ $(state) != FAILED ]] || { queue describe; exit 1; }
    sleep "${PAUSE:-30}"
  done
}

prepare() { # the checkout and its packages, on every host
  tar -C "$here" --exclude='./.*' --exclude=./data --exclude=./runs -czf "$room/weavejax.tar.gz" .
  send "$room/weavejax.tar.gz"
  on_all 'mkdir -p weavejax && tar -C weavejax -xzf weavejax.tar.gz && cd weavejax &&
    python3 -m venv ~/venv && ~/venv/bin/pip install --quiet -e ".[tpu,gs]"'
}

printf -v flags '%q ' --config="$CONFIG" --workdir="$WORKDIR" "$@"
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cat >"$room/run.sh" <<RUN
cd ~/weavejax && set -a && . launch/tpu.env && set +a
launch/again.sh ~/venv/bin/python -m weavejax.train $flags
echo "ended with status \$?"
RUN
# Runs on though the connection may be lost; then this follows the log again from its beginning.
# shellcheck disable=SC2016  # expands over there
start='kill -0 "$(cat pid)" 2>/dev/null ||
  { : >log; setsid nohup bash run.sh >>log 2>&1 & echo $! >pid; }
  tail --pid="$(cat pid)" -n +1 -f log; exit' # exit: else the shell becomes tail and reaps nothing

prepared=''
while :; do
  [[ $(state) == ACTIVE ]] || { make; prepared=''; }
  [[ -n $prepared ]] || { prepare; prepared=1; }
  send "$room/run.sh" || true
  on_all "$start" 2>&1 | tee "$room/log" || true
  # gcloud does not pass on the status of the command. 75 and 143: the slice is being taken away.
  # shellcheck disable=SC2013  # the lines are numbers
  for status in $(sed -n 's/.*ended with status \([0-9]*\)$/\1/p' "$room/log" | sort -rnu); do
    [[ $status == 75 || $status == 143 ]] || exit "$status"
  done
  sleep "${PAUSE:-30}" # the slice has gone, or the connection: look again
done
