#!/usr/bin/env bash
# Train on a TPU slice. The script creates the slice if it is missing. If the slice is
# preempted, the script creates it again and the run resumes. Run the script in the
# repository; it installs HEAD on the slice.
#
#   launch/tpu_pod.sh [--dry-run] NAME --config=FILE --workdir=gs://BUCKET/run [FLAGS...]
#
# All hosts must see the workdir and the photographs, so both lie in a bucket:
# gs://BUCKET/run and --config.data.root=gs://BUCKET/photos. The service account of the
# slice needs the role Storage Object User on the bucket.
# Environment: ZONE, TYPE, VERSION (of the image), SPOT (1; 0: on demand), RESTARTS (100).
# The slice is not deleted at the end: gcloud compute tpus tpu-vm delete NAME --zone=ZONE
set -euo pipefail

dry_run=
if [[ ${1:-} == --dry-run ]]; then dry_run=1 && shift; fi
if (($# < 2)) || [[ $1 == -* ]]; then
  echo "usage: launch/tpu_pod.sh [--dry-run] NAME FLAGS_OF_MAIN..." >&2 && exit 2
fi
name=$1 zone=--zone=${ZONE:-us-west4-a} && shift
if [[ ! " $*" =~ " --workdir"[=\ ]"gs://" ]]; then
  echo "tpu_pod.sh: expected --workdir=gs://BUCKET/DIR, which all hosts of the slice see" >&2 && exit 2
fi
slice=("--accelerator-type=${TYPE:-v5litepod-64}" "--version=${VERSION:-v2-alpha-tpuv5-lite}")
# The slice may read and write buckets, as far as its service account may.
slice+=(--scopes=https://www.googleapis.com/auth/cloud-platform)
if [[ ${SPOT:-1} == 1 ]]; then slice+=(--spot); fi
run() {
  echo "${*@Q}" >&2
  if [[ ! $dry_run ]]; then "$@"; fi
}
tpu() { run gcloud compute tpus tpu-vm "$@" "$zone" --quiet; }
on_all() { tpu ssh "$name" --worker=all --command="$1"; }
state() {
  if [[ $dry_run ]]; then echo missing && return; fi
  gcloud compute tpus tpu-vm describe "$name" "$zone" --format='value(state)' || echo missing
}

# The Python of the images is older than ours; uv fetches one.
install="rm -rf arniqa && mkdir arniqa && cd arniqa && tar -xzf ../arniqa.tar.gz && pip3 install --quiet --user uv && python3 -m uv venv --quiet --python=3.11 && python3 -m uv pip install --quiet --constraint=constraints.txt '.[gcs]' 'jax[tpu]'"

for ((attempt = 1; ; attempt++)); do
  if [[ $(state) != READY ]]; then
    if [[ $(state) != missing ]]; then tpu delete "$name"; fi
    until tpu create "$name" "${slice[@]}"; do sleep 60; done # until a slice is free
  fi
  run git archive --format=tar.gz --output=arniqa.tar.gz HEAD
  tpu scp arniqa.tar.gz "$name:" --worker=all
  # Processes that a broken connection left running lock the workdir and the chips.
  on_all "pkill -KILL -f '[a]rniqa_jax.main' || true; $install"
  code=0
  on_all "cd arniqa && .venv/bin/python -m arniqa_jax.main ${*@Q}" || code=$?
  case $code in 0 | 2 | 130) exit "$code" ;; esac
  if [[ $code == 1 && $(state) == READY ]] || ((attempt > ${RESTARTS:-100})); then exit "$code"; fi
  echo "tpu_pod.sh: ended with $code; all start again (attempt $attempt)" >&2
done
