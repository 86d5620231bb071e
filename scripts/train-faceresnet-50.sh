#!/usr/bin/env bash
# Trains faceresnet-50 on a rented GPU, in calls of a few minutes, and exports it.
#
#   scripts/train-faceresnet-50.sh DATA OUT [option of faceresnet train ...]
#
# DATA is laid out as WIDER FACE, or a shard of it. A folder's labels are corrected first by the
# list CORRECTIONS (set to nothing: not), a shard's are as they were packed. The network starts as
# faceresnet-n grown, or as another network of basic blocks, START (set to nothing: from random
# weights, or an --init of your own). Where uploads are limited, pack the training photos, cut the
# shard, and join it on the other side:
#
#   faceresnet data correct --data DATA --out C --corrections scripts/faceresnet-n-corrections.csv.gz
#   rm C/wider_face_split/wider_face_val_bbx_gt.txt
#   faceresnet data pack --data C --out shard.zip --quality 60
#   split -b 54M -d shard.zip shard.zip.        # there: cat shard.zip.* > shard.zip
#
# A call trains for at most TIME_LIMIT_S, counted from its start; the same command goes on. Each
# ends by writing what must leave the machine to OUT/pieces: the averaged weights in fp16, in files
# under 16 MiB with their sums. On a fresh machine OUT/pieces is enough to go on from; the
# optimiser starts anew there. Trained to the end, and given a folder with validation photos, it
# exports OUT/faceresnet-50-fp16.onnx and OUT/faceresnet-50.onnx (int8), with their AP on these.
# LICENCE is what the model files say of the data.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,4p' "$0" | cut -c3- >&2; exit 2; }
data=$1 out=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
corrections=${CORRECTIONS-$here/faceresnet-n-corrections.csv.gz}
limit_s=${TIME_LIMIT_S:-540}
start=${START-faceresnet-n}
licence=${LICENCE-non-commercial research only: trained on WIDER FACE and other photos released for \
research; see MODEL_CARD.md}
run=$out/run pieces=$out/pieces weights=$out/run/weights.safetensors
faceresnet=(faceresnet)
if ! command -v faceresnet >/dev/null; then
  export PYTHONPATH=$here/../src${PYTHONPATH:+:$PYTHONPATH}
  faceresnet=(python3 -m faceresnet)
fi
machine=(--workers 1)
if nvidia-smi >/dev/null 2>&1; then
  machine=(--accelerator gpu --devices 1 --compile --workers $(($(nproc) > 3 ? $(nproc) - 2 : 1)))
fi


# iteration: of the last checkpoint, what other machines did counted in.
iteration() {
  python3 - "$run" <<'END'
import json, sys, torch
saved = torch.load(f"{sys.argv[1]}/checkpoints/last.ckpt", "cpu", weights_only=True, mmap=True)
with open(f"{sys.argv[1]}/recipe.json") as file:
    print(json.load(file)["schedule"]["start"] + saved["global_step"])
END
}

# hand_over [FILE ...]: writes OUT/pieces anew, from what is to be kept of the run, and these files.
hand_over() {
  rm -rf "$pieces.new"
  mkdir "$pieces.new"
  tar -C "$run" -c weights.safetensors recipe.json metrics.jsonl iteration |
    split -b 15M -d - "$pieces.new/run.tar."
  for file; do split -b 15M -d "$file" "$pieces.new/$(basename "$file")."; done
  [ ! -e "$run/done" ] || touch "$pieces.new/done"
  (cd "$pieces.new" && sha256sum -- * >SHA256SUMS)
  rm -rf "$pieces"
  mv "$pieces.new" "$pieces"
}

mkdir -p "$run"
how=(${start:+--init "$start" --reshape grow})
if [ -e "$run/checkpoints/last.ckpt" ]; then
  how=(--resume)
elif [ -e "$pieces/SHA256SUMS" ]; then
  (cd "$pieces" && sha256sum --quiet --check SHA256SUMS)
  cat "$pieces"/run.tar.?? | tar -C "$run" -x
  [ ! -e "$pieces/done" ] || touch "$run/done"
  how=(--init "$weights" --set "schedule.start=$(cat "$run/iteration")")
fi

if [ ! -e "$run/done" ]; then
  labels=$data
  if [ -d "$data" ] && [ -n "$corrections" ]; then
    labels=$out/corrected
    "${faceresnet[@]}" data correct --data "$data" --out "$labels" --corrections "$corrections"
  fi
  status=0
  timeout -s TERM -k 20 "$((limit_s - SECONDS))" "${faceresnet[@]}" train --recipe faceresnet-50 \
    --data "$labels" --out "$run" "${machine[@]}" "$@" "${how[@]}" || status=$?
  if [ "$status" = 0 ]; then
    touch "$run/done"
  elif [ "$status" = 124 ] || { [ "$status" = 137 ] && [ "$SECONDS" -ge "$limit_s" ]; }; then
    echo "stopped after $limit_s s: the same command goes on" >&2
  else
    exit "$status" # 137 before the time is up: killed for its memory
  fi
  if [ ! -e "$run/checkpoints/last.ckpt" ]; then
    echo "no checkpoint yet: give more time, or make --set schedule.epoch smaller" >&2
    exit 1
  fi
  iteration >"$run/iteration"
  "${faceresnet[@]}" export "$run" --checkpoint last --out "$weights" --fp16
  hand_over
  echo "$pieces: iteration $(cat "$run/iteration")"
fi

if [ -e "$run/done" ] && [ -e "$data/wider_face_split/wider_face_val_bbx_gt.txt" ]; then
  for precision in fp16 int8; do
    model=$out/faceresnet-50-fp16.onnx
    [ "$precision" = fp16 ] || model=$out/faceresnet-50.onnx
    [ -e "$model" ] || "${faceresnet[@]}" export "$run" --checkpoint "$weights" --out "$model" \
      "--$precision" --data "$data" --licence "$licence"
  done
  hand_over "$out"/faceresnet-50*.onnx
fi
