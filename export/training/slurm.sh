#!/usr/bin/env bash
# Trains with one worker on each node: sbatch --nodes=4 --cpus-per-task=16 slurm.sh RUN_DIR [flags of twotower train]
# The run directory is on a file system that all nodes share, and is prepared already. A node that fails, or a training
# that loses a worker, leads to a new start after the last checkpoint. With SERVERS=2 in the environment, the first node
# has the chief, the next two have parameter servers, and the training goes on where a worker's node fails.
#SBATCH --job-name=twotower
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
set -euo pipefail
: "${1:?usage: sbatch --nodes=N slurm.sh RUN_DIR}"
run_dir=$1
shift
servers=${SERVERS:-0}
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed 's/.*/"&:2222"/')
join() { local IFS=,; echo "$*"; }
if [ "$servers" -eq 0 ]; then
  strategy=multi_worker kill=1 first=0 cluster="{\"worker\": [$(join "${hosts[@]}")]}"
else
  strategy=parameter_server kill=0 first=$((servers + 1))
  cluster="{\"chief\": [${hosts[0]}], \"ps\": [$(join "${hosts[@]:1:servers}")]"
  cluster+=", \"worker\": [$(join "${hosts[@]:first}")]}"
fi
export cluster run_dir strategy first
for attempt in 1 2 3 4 5; do
  status=0
  # shellcheck disable=SC2016
  srun --kill-on-bad-exit="$kill" bash -c '
    job=worker index=$((SLURM_PROCID - first))
    if [ "$index" -lt 0 ]; then job=ps index=$((SLURM_PROCID - 1)); fi
    if [ "$index" -lt 0 ]; then job=chief index=0; fi
    export TF_CONFIG="{\"cluster\": $cluster, \"task\": {\"type\": \"$job\", \"index\": $index}}"
    exec twotower train --run_dir="$run_dir" --strategy="$strategy" --resume "$@"' twotower "$@" || status=$?
  if [ "$status" -eq 0 ] || [ "$status" -eq 2 ]; then exit "$status"; fi
  echo "attempt $attempt ended with exit status $status" >&2
done
exit "$status"
