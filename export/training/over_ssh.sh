#!/usr/bin/env bash
# Trains with one worker on each host: over_ssh.sh RUN_DIR HOST HOST ...
# twotower is on the PATH of each host, and RUN_DIR, prepared already, on a file system that all hosts share. The lines of
# the workers are printed with their hosts. After exit status 75, a lost worker, start it again: it resumes.
set -euo pipefail
: "${3:?usage: over_ssh.sh RUN_DIR HOST HOST ...}"
run_dir=$1
shift
workers=$(printf '"%s:2222",' "$@")
index=0
processes=()
for host in "$@"; do
  config="{\"cluster\": {\"worker\": [${workers%,}]}, \"task\": {\"type\": \"worker\", \"index\": $index}}"
  command=$(printf 'TF_CONFIG=%q exec twotower train --run_dir=%q --strategy=multi_worker --resume' "$config" "$run_dir")
  ssh -o BatchMode=yes "$host" "$command" > >(sed "s/^/[$host] /") 2>&1 &
  processes+=($!)
  index=$((index + 1))
done
status=0
for process in "${processes[@]}"; do
  ended=0
  wait "$process" || ended=$?
  if [ "$ended" -ne 0 ] && { [ "$status" -eq 0 ] || [ "$ended" -ne 75 ]; }; then status=$ended; fi
done
exit "$status"
