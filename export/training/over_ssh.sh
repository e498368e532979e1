#!/usr/bin/env bash
# Trains with one worker on each host: over_ssh.sh RUN_DIR HOST HOST ...
# twotower is on the PATH of each host, and RUN_DIR, prepared already, on a file system that all hosts share. The lines of
# the workers are printed with their hosts. After exit status 75, a lost worker, start it again: it resumes. With SERVERS=2
# in the environment, the first host has the chief, the next two have parameter servers, and the others workers.
set -euo pipefail
: "${3:?usage: over_ssh.sh RUN_DIR HOST HOST ...}"
run_dir=$1
shift
servers=${SERVERS:-0}
list() { printf '"%s:2222",' "$@" | sed 's/,$//'; }
strategy=multi_worker first=0 cluster="{\"worker\": [$(list "$@")]}"
if [ "$servers" -gt 0 ]; then
  strategy=parameter_server first=$((servers + 1))
  cluster="{\"chief\": [$(list "$1")], \"ps\": [$(list "${@:2:servers}")], \"worker\": [$(list "${@:first+1}")]}"
fi
place=0
processes=()
for host in "$@"; do
  job=worker index=$((place - first))
  if [ "$index" -lt 0 ]; then job=ps index=$((place - 1)); fi
  if [ "$index" -lt 0 ]; then job=chief index=0; fi
  config="{\"cluster\": $cluster, \"task\": {\"type\": \"$job\", \"index\": $index}}"
  command=$(printf 'TF_CONFIG=%q exec twotower train --run_dir=%q --strategy=%q --resume' "$config" "$run_dir" "$strategy")
  ssh -o BatchMode=yes "$host" "$command" > >(sed "s/^/[$host] /") 2>&1 &
  processes+=($!)
  place=$((place + 1))
done
status=0
for process in "${processes[@]}"; do
  ended=0
  wait "$process" || ended=$?
  if [ "$ended" -ne 0 ] && { [ "$status" -eq 0 ] || [ "$ended" -ne 75 ]; }; then status=$ended; fi
done
exit "$status"
