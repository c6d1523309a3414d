#!/usr/bin/env bash
# N processes on this machine as one job (lines are prefixed with the process's number):
#   [VENV=DIR] launch/local.sh N --config FILE --workdir DIR [FLAGS…]
# JAX_NUM_CPU_DEVICES=M gives each M CPU devices; DOOR=doctor starts another door.
# Ends with the status of the first process that failed, else 75 (preempted) if any, else 0.
# m: every process leads a group, so that Ctrl-C comes from here once and its workers end with it.
set -um
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) || { echo "needs bash 5.1" >&2; exit 2; }
[[ ${1-} =~ ^[1-9][0-9]*$ ]] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
: "${GRACE:=30}" # seconds that the others have, once one has failed
count=$1 here=$(dirname "$0") python=${VENV:+$VENV/bin/}python
shift
if nvidia-smi -L >/dev/null 2>&1; then device=gpu; else device=cpu; fi
set -a
# shellcheck source=/dev/null
. "$here/$device.env"
set +a
find_port='import socket; print(socket.create_server(("", 0)).getsockname()[1])'
port=$("$python" -c "$find_port") || exit 2
export WEAVEJAX_COORDINATOR=localhost:$port WEAVEJAX_PROCESSES=$count

alive=() writers=() status=0 timer='' stopping=''
trap 'kill -KILL -- "${alive[@]/#/-}" ${timer:+"-$timer"} 2>/dev/null' EXIT
# shellcheck disable=SC2329  # called by the traps
forward() { stopping=1; kill -s "$1" "${alive[@]}" 2>/dev/null; }
trap 'forward TERM' TERM
trap 'forward INT' INT

for ((i = 0; i < count; i++)); do
  [[ -z $stopping ]] || break
  exec {out}> >(exec sed -u "s/^/[$i] /") # a line at a time, so that lines stay whole
  writers+=($!)
  [[ $device == cpu || $count == 1 ]] || export JAX_LOCAL_DEVICE_IDS=$i # one GPU each
  WEAVEJAX_PROCESS=$i "$python" -m "weavejax.${DOOR:-train}" ${CONFIG:+"--config=$CONFIG"} \
    ${WORKDIR:+"--workdir=$WORKDIR"} "$@" </dev/null >&"$out" 2>&1 {out}>&- &
  alive+=($!)
  exec {out}>&-
done

while ((${#alive[@]})); do
  { wait -n -p ended "${alive[@]}"; } 2>/dev/null # else bash prints the command of a killed one
  code=$?
  [[ -n ${ended-} ]] || continue # a signal, which was passed on
  for i in "${!alive[@]}"; do
    [[ ${alive[i]} != "$ended" ]] || { number=$i; unset 'alive[i]'; }
  done
  kill -KILL -- "-$ended" 2>/dev/null # workers that it left behind
  ((code)) || continue
  ((status != 0 && status != 75)) || status=$code
  [[ -z $timer ]] || continue
  echo "local.sh: process $number ended with status $code" >&2
  # The others cannot go on without it, but those told to stop already are left to finish doing so:
  # a second signal would cut that short. One may be frozen, and then heeds nothing but KILL.
  [[ $code == 75 || -n $stopping || ${#alive[@]} == 0 ]] || kill -TERM "${alive[@]}" 2>/dev/null
  (sleep "$GRACE"; kill -KILL -- "${alive[@]/#/-}") 2>/dev/null &
  timer=$!
done
wait "${writers[@]}" # until the last line is out
exit "$status"
