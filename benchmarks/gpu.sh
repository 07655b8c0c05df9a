#!/usr/bin/env bash
# All that only a GPU can tell, in one dated JSON file, within eight minutes.
#
#   benchmarks/gpu.sh [OUTPUT]        default: output/gpu
#
# DEVICE=cpu TOY=1 benchmarks/gpu.sh runs the same commands at toy sizes anywhere. A step that fails
# or runs out of time is named, the others go on, and the exit status says so.
set -uo pipefail
cd "$(dirname "$0")/.."

output=${1:-output/gpu}
device=${DEVICE:-cuda}
python=${PYTHON:-python}
failed=()

step() { # seconds, name, command
    local seconds=$1 name=$2
    shift 2
    echo "== $name"
    timeout "$seconds" "$@" || failed+=("$name")
}

bench() { # seconds, name, arguments of benchmark.py
    local seconds=$1 name=$2
    shift 2
    step "$seconds" "$name" "$python" tools/benchmark.py --device "$device" --no-memory \
        --output "$output/$name" "$@"
}

if [ -n "${TOY:-}" ]; then
    checks=(--toy --repeats 1)
    sizes=(t)
    dtypes=(float32)
    size=(--tokens 4 6 --images 1 --repeats 1 --warmup 0)
    batches=(--batch-sizes 1)
    models=(MODEL.VIT.DEPTH 12 MODEL.VIT.EMBED_DIM 24 MODEL.ADAPTER.STEM_WIDTH 8)
    training=(--policies EViT)
else
    checks=()
    sizes=(t s)
    dtypes=(float32 bfloat16)
    size=(--height 800 --width 1333 --images 3 --repeats 3)
    batches=(--batch-sizes 1 4 8)
    models=()
    training=(--policies EViT ATS EvoViT SViT)
fi

if [ -n "$(ls -A "$output" 2>/dev/null)" ]; then
    echo "gpu.sh: $output holds files already; name another folder."
    exit 2
fi
mkdir -p "$output"
if [ "$device" != cpu ]; then
    step 60 laws "$python" -m pytest -q -p no:cacheprovider tests/policies/test_promises.py
fi
step 150 device_checks "$python" tools/device_checks.py --device "$device" \
    --output "$output/device_checks" "${checks[@]}"
for which in "${sizes[@]}"; do
    for dtype in "${dtypes[@]}"; do
        bench 60 "${which}_${dtype}" --config-file "configs/svit_$which.yaml" --dtype "$dtype" \
            --parts blocks backbone detector "${batches[@]}" "${size[@]}" "${models[@]}"
    done
done
bench 60 training --config-file configs/svit_t.yaml --parts training "${training[@]}" \
    --batch-sizes 1 "${size[@]}" "${models[@]}"
step 10 collect "$python" tools/device_checks.py --collect "$output" --output "$output"

if [ ${#failed[@]} -gt 0 ]; then
    echo "gpu.sh: failed: ${failed[*]}"
    exit 1
fi
