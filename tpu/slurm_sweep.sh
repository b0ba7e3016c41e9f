#!/usr/bin/env bash
# A sweep as an array of SLURM, one part of the runs for each task of the array:
#   sbatch --array=1-16 tpu/slurm_sweep.sh jaxnets sweep CONFIG --optimizer.learning-rate 0.1 0.2 0.4 --seed 0 1 2 3
# The directory of the sweep must be on a disk that all nodes share. The same `jaxnets sweep` without the array then prints
# the table of all runs. Runs that have their results are not repeated, so the same array may be submitted again.
#SBATCH --job-name=jaxnets-sweep
#SBATCH --array=1-8
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=%x-%A-%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
set -euo pipefail
if [ $# = 0 ]; then
  echo "slurm_sweep.sh: no command; give one: sbatch --array=1-8 tpu/slurm_sweep.sh jaxnets sweep CONFIG --FIELD V1 V2" >&2
  exit 2
fi
: "${SLURM_ARRAY_TASK_ID:?is not set, so this is not a task of an array; start it by sbatch --array=1-8}"
if [ "$SLURM_ARRAY_TASK_MIN" != 1 ] || [ "$SLURM_ARRAY_TASK_MAX" != "$SLURM_ARRAY_TASK_COUNT" ]; then
  echo "slurm_sweep.sh: the tasks of the array are numbered 1 to N, as by --array=1-8 (--array=1-100%8 runs 8 at a time)" >&2
  exit 2
fi
exec "$@" --part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
