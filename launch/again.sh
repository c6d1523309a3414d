#!/usr/bin/env bash
# Starts a command again until it is done; a run goes on from its last checkpoint:
#   launch/again.sh COMMAND [ARGUMENTS…]
# The statuses of FINAL end it: 0 (done), 2 (a mistake that only you can mend), 130 and 143 (stopped
# by hand). 75 (preempted) starts the command again; so does a crash, up to RESTARTS times.
# m: the child gets its own process group, so that Ctrl-C reaches it once, and from here.
set -um
: "${FINAL:=0 2 130 143}" "${RESTARTS:=20}" "${PAUSE:=10}"
child='' stopping=''

# shellcheck disable=SC2329  # called by the traps
forward() {
  stopping=1
  [[ -z $child ]] || kill -s "$1" "$child" 2>/dev/null
}
trap 'forward TERM' TERM
trap 'forward INT' INT

crashes=0
while [[ -z $stopping ]]; do
  "$@" </dev/null &
  child=$!
  # A signal ends `wait` early, with a status that is not the child's: ask until it is gone.
  while :; do
    wait "$child"
    status=$?
    kill -0 "$child" 2>/dev/null || break
  done
  [[ " $FINAL " != *" $status "* && -z $stopping ]] || exit "$status"
  ((status == 75)) || crashes=$((crashes + 1))
  ((crashes <= RESTARTS)) || exit "$status"
  echo "again.sh: ended with status $status; again in $PAUSE s" >&2
  child=''
  sleep "$PAUSE" & # in the background, so that a signal is acted on at once
  wait $!
done
exit 75 # stopped between two starts: nothing was lost
