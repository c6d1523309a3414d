#!/usr/bin/env bash
# Commands beside one another, each on its share of the cores (lines are prefixed with its number):
#   [VENV=DIR] launch/beside.sh 'COMMAND' 'COMMAND'…
# All are waited for; ends with the status of the last that failed. Ctrl-C and TERM reach all as TERM.
set -um # m: every command leads a group, so that a signal reaches all that it started
(($#)) || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
python=${VENV:+$VENV/bin/}python
bind='
import os, sys
number, count, *command = sys.argv[1:]
if hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[int(number) :: int(count)] or cores)
os.execvp(command[0], command)
'
groups=() writers=() status=0 stopped=''
trap 'stopped=1; kill -TERM -- "${groups[@]/#/-}" 2>/dev/null' INT TERM
for ((i = 0; i < $#; i++)); do
  # A line at a time, so that lines stay whole; until the last one, whatever was pressed.
  exec {out}> >(trap '' INT; exec sed -u "s/^/[$i] /")
  writers+=($!)
  "$python" -c "$bind" "$i" $# bash -c "${*:i+1:1}" </dev/null >&"$out" 2>&1 {out}>&- &
  groups+=($!)
  exec {out}>&-
done
for group in "${groups[@]}"; do wait "$group" || status=$?; done
for group in ${stopped:+"${groups[@]}"}; do # a training that was stopped saves itself first
  while kill -0 -- "-$group" 2>/dev/null; do sleep 0.1; done
done
wait "${writers[@]}"
exit "$status"
