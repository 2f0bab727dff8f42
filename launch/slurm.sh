#!/usr/bin/env bash
# A Slurm job of one process per GPU, requeued until the run is finished.
#
#   sbatch [--nodes=4 --time=12:00:00 ...] launch/slurm.sh --config=FILE --workdir=DIR ...
#   bash launch/slurm.sh --dry-run --config=FILE ...   # what the job would do
#
# Run it in the directory of the repository. DIR must be mounted on all nodes. For one
# process per node, add --ntasks-per-node=1 to sbatch. GPUs are requested per node: JAX
# chooses a GPU for each process, and with --gpus-per-task a process would see only one.
# Environment: PYTHON (.venv/bin/python), RESTARTS (100).
#
#SBATCH --job-name=arniqa
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

dry_run=
if [[ ${1:-} == --dry-run ]]; then dry_run=1 && shift; fi
if (($# == 0)); then
  echo "usage: sbatch launch/slurm.sh FLAGS_OF_MAIN..." >&2 && exit 2
fi
run() {
  echo "${*@Q}" >&2
  if [[ ! $dry_run ]]; then "$@"; fi
}

# The first task that ends does not end the others, so that they can save.
code=0
run srun --kill-on-bad-exit=0 "${PYTHON:-.venv/bin/python}" -m arniqa_jax.main "$@" || code=$?
# srun exits with the highest code. 75 requests a restart, and 128 + N means signal N.
if [[ ! $dry_run ]] && { ((code != 75 && code <= 128)) || ((code == 130)); }; then
  exit "$code"
fi
if ((${SLURM_RESTART_COUNT:-0} >= ${RESTARTS:-100})); then
  echo "slurm.sh: giving up after ${RESTARTS:-100} restarts; the last code was $code" >&2
  exit "$code"
fi
run scontrol requeue "${SLURM_JOB_ID:-JOB}"
