#!/usr/bin/env bash
# Trains faceresnet-n from nothing, the way the shipped weights were made, and exports it.
#
#   scripts/train-faceresnet-n.sh DATA OUT [option of faceresnet train ...]
#
# DATA is laid out as WIDER FACE. Eleven parts: faceresnet-n-wide learns from the labels as they are;
# faceresnet-n-native adds tiny faces in their own size; then the model labels its training photos
# again (data relabel) and faceresnet-n-self learns from those; faceresnet-n-corrected learns from
# labels corrected by a list; faceresnet-n-narrow, a network of half the arithmetic, starts from the
# strongest filters of that one; faceresnet-n-deep is widened from it where that costs little time;
# faceresnet-n-balanced, the same network, learns by a loss in which tiny faces count as much as
# others; faceresnet-n-harder leaves out a block and filters that add nothing, and learns from harder
# photos; faceresnet-n has thinner blocks and learns to compute what that network does, not from
# labels; faceresnet-n-taught learns from what that network and YuNet, which looks closer, say
# together, without labels either; faceresnet-n-negatives unlearns what it sees in images without a
# face, and computes what it did in all others. The last six train in two processes, one for each
# core. Killed at any point, the same command goes on.
#
# EVENTS names the events of DATA whose labels are taken as complete, CORRECTIONS the list for `data
# correct`: that of the shipped weights if not set (whose own parts four to seven knew only its first
# 9,594 lines); set to nothing, the parts from the fourth on learn from what the model labelled.
# Set CUT to nothing where options give all parts one network: nothing is cut before the eighth.
# YUNET is YuNet's .onnx file, with dynamic height and width; without one the tenth part is left out.
# LICENCE is what the model file says of its data. The shipped eighth part was stopped at 12,000
# iterations and knew the new lines of the list from 5,500 on (docs/results.md).
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,4p' "$0" | cut -c3- >&2; exit 2; }
data=$1 out=$2
shift 2
corrections=${CORRECTIONS-$(dirname "$0")/faceresnet-n-corrections.csv.gz}
licence=${LICENCE-non-commercial research only: trained on WIDER FACE and other photos released for \
research; see MODEL_CARD.md}
cut=()
[ -z "${CUT-yes}" ] || cut=(--narrow faceresnet-n-harder)
complete=()
for event in ${EVENTS-wider masks_b heads}; do complete+=(--complete "$event"); done

# part RECIPE DATA INIT [option ...]: one run, begun, gone on with, or done already.
part() {
  local recipe=$1 photos=$2 init=$3 run=$out/$1
  shift 3
  [ ! -e "$run/done" ] || return 0
  local how=()
  if [ -e "$run/checkpoints/last.ckpt" ]; then
    how=(--resume)
  elif [ -n "$init" ]; then
    how=(--init "$init")
  fi
  faceresnet train --recipe "$recipe" --data "$photos" --out "$run" "${how[@]}" "$@"
  touch "$run/done"
}

# best RUN: its checkpoint with the best AP; the last where no validation photos told.
best() {
  local found=$out/$1/checkpoints/best.ckpt
  [ -e "$found" ] || found=${found%best.ckpt}last.ckpt
  echo "$found"
}

mkdir -p "$out"
part faceresnet-n-wide "$data" "" "$@"
part faceresnet-n-native "$data" "$out/faceresnet-n-wide/checkpoints/last.ckpt" "$@"
if [ ! -e "$out/relabelled/done" ]; then
  faceresnet export "$out/faceresnet-n-native" --out "$out/teacher.onnx" --checkpoint last
  faceresnet data relabel --data "$data" --out "$out/relabelled" --model "$out/teacher.onnx" \
    "${complete[@]}"
  touch "$out/relabelled/done"
fi
part faceresnet-n-self "$out/relabelled" "$out/faceresnet-n-native/checkpoints/last.ckpt" "$@"
labels=$out/relabelled
if [ -n "$corrections" ]; then
  labels=$out/corrected
  faceresnet data correct --data "$data" --out "$labels" --corrections "$corrections"
fi
part faceresnet-n-corrected "$labels" "$out/faceresnet-n-self/checkpoints/last.ckpt" "$@"
part faceresnet-n-narrow "$labels" "$out/faceresnet-n-corrected/checkpoints/last.ckpt" \
  --reshape narrow "$@"
two=(--accelerator cpu --devices 2 --strategy ddp --workers 0)
OMP_NUM_THREADS=1 part faceresnet-n-deep "$labels" "$out/faceresnet-n-narrow/checkpoints/last.ckpt" \
  --reshape widen "${two[@]}" "$@"
OMP_NUM_THREADS=1 part faceresnet-n-balanced "$labels" "$(best faceresnet-n-deep)" "${two[@]}" "$@"
start=$out/faceresnet-n-start.safetensors
faceresnet export "$out/faceresnet-n-balanced" "${cut[@]}" --out "$start"
OMP_NUM_THREADS=1 part faceresnet-n-harder "$labels" "$start" "${two[@]}" "$@"
# The mean of what this part started from and what it came to.
original=$out/faceresnet-n-original.safetensors
faceresnet export "$out/faceresnet-n-harder" --checkpoint last --average "$start" --out "$original"
imitate=(--imitate "$original")
for set in iterations=5000 warmup=100 weight_decay=0; do
  imitate+=(--set "schedule.$set")
done
OMP_NUM_THREADS=1 part faceresnet-n "$labels" "" "${imitate[@]}" "${two[@]}" "$@"
last=("$out/faceresnet-n" --checkpoint last)
shift=()
if [ -n "${YUNET-}" ]; then
  start=$out/faceresnet-n-untaught.safetensors teacher=$out/faceresnet-n-untaught.onnx
  faceresnet export "${last[@]}" --out "$start"
  [ -e "$teacher" ] || faceresnet export "${last[@]}" --out "$teacher" --int8 --data "$data"
  OMP_NUM_THREADS=1 part faceresnet-n-taught "$labels" "$start" --teacher "$teacher" \
    --yunet "$YUNET" "${two[@]}" "$@"
  last=("$out/faceresnet-n-taught" --checkpoint last --average "$start")
  shift=(--shift 0.37)  # its teachers doubt, so its scores are lower than before it was taught
fi
mean=$out/faceresnet-n-mean.safetensors
faceresnet export "${last[@]}" --out "$mean"
OMP_NUM_THREADS=1 part faceresnet-n-negatives "$labels" "" --imitate "$mean" "${two[@]}" "$@"
last=("$out/faceresnet-n-negatives" --checkpoint last --average "$mean" "${shift[@]}")
faceresnet export "${last[@]}" --out "$out/faceresnet-n.onnx" --int8 \
  --data "$data" --licence "$licence"
faceresnet export "${last[@]}" --out "$out/faceresnet-n.safetensors" --fp16
