#!/usr/bin/env bash
# Trains with one worker on each node: sbatch --nodes=4 --cpus-per-task=16 slurm.sh RUN_DIR [flags of twotower train]
# The run directory is on a file system that all nodes share, and is prepared already. A node that fails, or a training
# that loses a worker, leads to a new start after the last checkpoint.
#SBATCH --job-name=twotower
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
set -euo pipefail
: "${1:?usage: sbatch --nodes=N slurm.sh RUN_DIR}"
run_dir=$1
shift
workers=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed 's/.*/"&:2222"/' | paste -sd,)
export workers run_dir
for attempt in 1 2 3 4 5; do
  status=0
  # shellcheck disable=SC2016
  srun --kill-on-bad-exit=1 bash -c '
    export TF_CONFIG="{\"cluster\": {\"worker\": [$workers]}, \"task\": {\"type\": \"worker\", \"index\": $SLURM_PROCID}}"
    exec twotower train --run_dir="$run_dir" --strategy=multi_worker --resume "$@"' twotower "$@" || status=$?
  if [ "$status" -eq 0 ] || [ "$status" -eq 2 ]; then exit "$status"; fi
  echo "attempt $attempt ended with exit status $status" >&2
done
exit "$status"
