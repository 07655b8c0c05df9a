#!/usr/bin/env bash
# All that only a GPU can tell, in one dated JSON file, within eight minutes: the seconds that the
# steps may take add up to 469.
#
#   benchmarks/gpu.sh [OUTPUT]        default: output/gpu
#
# float32 is never TF32 in any step, neither in products nor in convolutions; the JSON says so.
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
    timeout "$((patience * seconds))" "$@" || failed+=("$name")
}

bench() { # seconds, name, arguments of benchmark.py
    local seconds=$1 name=$2
    shift 2
    step "$seconds" "$name" "$python" tools/benchmark.py --device "$device" --no-memory \
        --output "$output/$name" "$@"
}

if [ -n "${TOY:-}" ]; then
    patience=6 # toys show that the commands run, also on a busy machine
    checks=(--toy --repeats 1)
    runs=(t_float32 s_bfloat16)
    size=(--tokens 4 6 --images 1 --repeats 1 --warmup 0)
    batches=(--batch-sizes 1)
    models=(MODEL.VIT.DEPTH 12 MODEL.VIT.EMBED_DIM 24 MODEL.ADAPTER.STEM_WIDTH 8)
    training=(--policies EViT --batch-sizes 1)
    classifier=(--batch-sizes 1 2 --batches 1 --repeats 1 --warmup 0 INPUT.SIZE 32 MODEL.VIT.EMBED_DIM 24)
else
    patience=1
    checks=()
    runs=(t_float32 t_bfloat16 s_float32 s_bfloat16)
    size=(--height 800 --width 1333 --images 3 --repeats 3)
    batches=(--batch-sizes 1 4 8)
    models=()
    training=(--policies EViT ATS EvoViT SViT --batch-sizes 1 4)
    # Images one by one would take a pass for each of 512.
    classifier=(--ways packed nested padded --batch-sizes 1 8 64 256 512 --batches 3 --repeats 5)
fi

if [ -n "$(ls -A "$output" 2>/dev/null)" ]; then
    echo "gpu.sh: $output holds files already; name another folder."
    exit 2
fi
mkdir -p "$output"
# Of the laws, the ones about a device. On a CPU they run on tensors without values.
step 25 laws "$python" -m pytest -q -p no:cacheprovider tests/policies/test_promises.py \
    -k "on_a_gpu or other_settings"
step 145 device_checks "$python" tools/device_checks.py --device "$device" \
    --output "$output/device_checks" "${checks[@]}"
for run in "${runs[@]}"; do
    dtype=${run#*_} parts=(blocks backbone)
    [ "$dtype" != float32 ] || parts+=(detector)
    bench 40 "$run" --config-file "configs/svit_${run%%_*}.yaml" --dtype "$dtype" \
        --parts "${parts[@]}" "${batches[@]}" "${size[@]}" "${models[@]}"
done
# In bfloat16 a whole detector runs under autocast.
bench 25 detector_t_bfloat16 --config-file configs/svit_t.yaml --dtype bfloat16 --parts detector \
    --batch-sizes 1 "${size[@]}" "${models[@]}"
for which in t s; do
    bench 35 "training_$which" --config-file "configs/svit_$which.yaml" --parts training \
        "${training[@]}" "${size[@]}" "${models[@]}"
done
# 16 turns of 512 images in four arms are 110 T multiply-adds: some six seconds in float32 on an H100.
step 34 classifier "$python" tools/benchmark_classifier.py --device "$device" \
    --config-file configs/imagenet/svit_s.yaml --output "$output/classifier" "${classifier[@]}"
step 10 collect "$python" tools/device_checks.py --collect "$output" --output "$output"

if [ ${#failed[@]} -gt 0 ]; then
    echo "gpu.sh: failed: ${failed[*]}"
    exit 1
fi
