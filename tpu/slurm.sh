#!/usr/bin/env bash
# Several GPU nodes under SLURM, one process for each GPU:
#   sbatch --nodes=2 tpu/slurm.sh jaxnets train llama_1b --mesh.fsdp 16 --run-dir /shared/runs/llama_1b
# The run directory must be on a disk that all nodes share. Set the GPUs of a node in both lines below.
#SBATCH --job-name=jaxnets
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# Five minutes before the time is up the processes get SIGTERM; jaxnets saves and ends with 75.
#SBATCH --signal=TERM@300
set -euo pipefail
if [ $# = 0 ]; then
  echo "slurm.sh: no command; give one: sbatch tpu/slurm.sh jaxnets train CONFIG --run-dir DIRECTORY" >&2
  exit 2
fi
: "${SLURM_JOB_ID:?is not set, so this is not inside a job; start it by sbatch}"

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export COORDINATOR=${nodes%%$'\n'*}:$((20000 + SLURM_JOB_ID % 20000))

# JAX gives each process the GPU of its local number. One failure ends the others by jaxnets' own heartbeat; srun must not end
# them at the first exit code, since the first process may still be saving.
code=0
# shellcheck disable=SC2016  # the variables are those of each process
srun --kill-on-bad-exit=0 bash -c \
  'exec "$@" --coordinator "$COORDINATOR" --processes "$SLURM_NTASKS" --process-id "$SLURM_PROCID" --wait-seconds 300' jaxnets "$@" || code=$?

if [ "$code" = 75 ]; then
  echo "slurm.sh: stopped after saving; the job goes back to the queue and resumes there"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
