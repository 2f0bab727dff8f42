#!/usr/bin/env bash
# One command for a machine with a GPU that checks the results and measures the speed.
#
#   benchmarks/on_gpu.sh [--wheels=DIR] [FLAGS OF on_gpu.py...]
#   benchmarks/on_gpu.sh --pack=DIR
#
# The first form runs benchmarks/on_gpu.py (8 minutes at most; its --help lists the
# flags), with the wheels in DIR if it is given. It needs no network.
#
# The second form only downloads wheels into DIR: those of packages that such a machine
# often lacks, for Python 3.12 on x86-64 Linux. The machine must have JAX, Flax, Optax,
# Orbax, scikit-image, scikit-learn, Matplotlib and pytest; PyTorch is optional. Keep DIR
# out of Git (.git/info/exclude) and copy it to the machine with the repository.
#
# Environment: PYTHON (python3).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
# The packages of setup.cfg that are missing there, with their dependencies. Packages that
# only labelled datasets need are left out: openpyxl and tensorflow-datasets.
missing="array_record dm_pix grain ml_collections portpicker tensorboardX"

pack() {
  local name requirements=()
  for name in $missing; do
    requirements+=("$(grep -i "^$name==" constraints.txt)")
  done
  # pip matches the version of glibc exactly, so each platform is listed.
  "$python" -m pip download --quiet --no-deps --only-binary=:all: \
    --python-version 3.12 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 --dest "$1" "${requirements[@]}"
  du --summarize --human-readable "$1"
}

wheels=
arguments=()
for argument in "$@"; do
  case $argument in
    --pack=?*)
      pack "${argument#--pack=}"
      exit
      ;;
    --wheels=?*) wheels=${argument#--wheels=} ;;
    *) arguments+=("$argument") ;;
  esac
done

temporary=$(mktemp --directory)
trap 'rm --recursive --force "$temporary"' EXIT
site=$temporary/site
if [[ $wheels ]]; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
    --target "$site" "$wheels"/*.whl
fi
# The package itself is not installed, but checkpoints record its version.
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' arniqa_jax/version.py)
mkdir --parents "$site/arniqa_jax-$version.dist-info"
printf 'Metadata-Version: 2.1\nName: arniqa_jax\nVersion: %s\n' "$version" \
  >"$site/arniqa_jax-$version.dist-info/METADATA"
export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}"
# The parts are separate processes, and some compile the same programs.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$temporary/compiled}"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.1
# Only one process uses the GPU at a time. JAX would leave a quarter of its memory unused.
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
"$python" benchmarks/on_gpu.py ${arguments[@]+"${arguments[@]}"} &
child=$!
trap 'kill -TERM "$child"' INT TERM # its children end too
status=0
wait "$child" || status=$?
while kill -0 "$child" 2>/dev/null; do # a signal has ended the wait
  status=0
  wait "$child" || status=$?
done
exit "$status"
