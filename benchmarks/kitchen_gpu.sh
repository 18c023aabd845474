#!/usr/bin/env bash
# The kitchen's table on a machine with a GPU, in at most 9 minutes: `bash benchmarks/kitchen_gpu.sh [OUT] [SECONDS]`.
#
# Needs the package and its extra `real`. Builds the kitchen (or uses the cache), runs the preset `kitchen` in WORKERS
# processes that share the GPU, and after SECONDS writes page and table of the cells that are finished; the same command
# goes on from there. Not tried on a GPU yet: WORKERS and the batch size are estimates.
set -euo pipefail
out=${1:-runs/kitchen_gpu} seconds=${2:-500} workers=${WORKERS:-6}
python -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' || { echo "no GPU found"; exit 1; }
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
started=$SECONDS
holdfast kitchen build
left=$((seconds - (SECONDS - started)))
[ "$left" -gt 30 ] || { echo "the kitchen is built, but no time is left: run again"; exit 1; }
timeout --signal=INT "$left" holdfast run kitchen --runs "$out" --workers "$workers" --no-report \
  evaluation.batch_size=256 || echo "stopped after $seconds seconds, or a cell failed; what is finished is kept"
holdfast report "$out" --out "$out/report.html"
nvidia-smi --query-gpu=name,memory.total --format=csv,noheader > "$out/gpu.txt"
