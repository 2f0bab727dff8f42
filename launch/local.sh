#!/usr/bin/env bash
# Run N processes of one run on this machine. If one of them is killed or exits with 75,
# all start again and the run resumes.
#
#   launch/local.sh [--dry-run] N --config=FILE --workdir=DIR [FLAGS OF MAIN...]
#
# If there are GPUs, process I gets GPU I. Ctrl-C and SIGTERM go to every process.
# Environment: PYTHON (python), RESTARTS (10).
set -euo pipefail
set -m # Separate process groups: Ctrl-C reaches the processes only through this script.

dry_run=
if [[ ${1:-} == --dry-run ]]; then dry_run=1 && shift; fi
if [[ ! ${1:-} =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local.sh [--dry-run] N FLAGS_OF_MAIN..." >&2 && exit 2
fi
n=$1 && shift
python=${PYTHON:-python} restarts=${RESTARTS:-10}
IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((n - 1)))}"
free_port='import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])'
orphaned=() # Where this script is killed, its processes save and end.
if command -v setpriv >/dev/null; then orphaned=(setpriv --pdeathsig TERM); fi

declare -A running=() # by process id
stopped=
pass_on() { stopped=1 && kill "-$1" "${!running[@]}" 2>/dev/null || true; }
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT
trap 'kill -KILL "${!running[@]}" 2>/dev/null || true' EXIT

for ((attempt = 1; ; attempt++)); do
  port=$("$python" -c "$free_port")
  for ((id = 0; id < n; id++)); do
    command=(env "CUDA_VISIBLE_DEVICES=${gpus[id]:-}" "$python" -m arniqa_jax.main "$@"
      "--coordinator=127.0.0.1:$port" "--num_processes=$n" "--process_id=$id")
    if [[ $dry_run ]]; then echo "${command[*]@Q}" && continue; fi
    "${orphaned[@]}" "${command[@]}" &
    running[$!]=$id
  done

  failed='' again='' lost=0
  while ((${#running[@]})); do
    sleep 0.5 & wait $! || true # `wait -n` would miss what ended before it was called
    for pid in "${!running[@]}"; do
      if kill -0 "$pid" 2>/dev/null; then continue; fi
      code=0 && wait "$pid" || code=$?
      unset "running[$pid]"
      case $code in 0) ;; 1 | 2 | 130) failed=${failed:-$code} ;; *) again=$code ;; esac
      case $code in 0 | 75 | 130) ;; *) lost=1 ;; esac
    done
    # The other processes notice it and end. After 20 seconds they are killed.
    if ((lost && lost++ > 40)); then kill -KILL "${!running[@]}" || true; fi
  done
  if [[ $failed || ! $again || $stopped ]] || ((attempt > restarts)); then
    exit "${failed:-${again:-0}}"
  fi
  echo "local.sh: one ended with $again; all start again ($attempt of $restarts)" >&2
done
