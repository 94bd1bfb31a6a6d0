#!/usr/bin/env bash
# P-Tuning v2 on the advertising data, as the original's train.sh. Runs from anywhere; every value can be set from the
# environment, as in NUM_GPUS=2 DATA=~/AdvertiseGen bash training/scripts/train.sh, and further flags are added at the end.
# Accumulated batches run together where memory allows, which is many times faster and changes no number.
set -euo pipefail
root="$(cd -P "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"

PRE_SEQ_LEN="${PRE_SEQ_LEN:-128}"
LR="${LR:-2e-2}"
DATA="${DATA:-AdvertiseGen}"
OUTPUT="${OUTPUT:-output}"
CHECKPOINT="${CHECKPOINT:-adgen-chatglm2-6b-pt-$PRE_SEQ_LEN-$LR}"
export NUM_GPUS="${NUM_GPUS:-1}"

exec "$root/launch.sh" train \
  --do_train \
  --model_name_or_path "${MODEL:-THUDM/chatglm2-6b}" \
  --train_file "${TRAIN_DATA:-$DATA/train.json}" \
  --validation_file "${VAL_DATA:-$DATA/dev.json}" \
  --prompt_column content \
  --response_column summary \
  --output_dir "$OUTPUT/$CHECKPOINT" \
  --overwrite_output_dir \
  --max_source_length "${MAX_SOURCE_LENGTH:-64}" \
  --max_target_length "${MAX_TARGET_LENGTH:-128}" \
  --per_device_train_batch_size "${BATCH_SIZE:-1}" \
  --gradient_accumulation_steps "${ACCUMULATION:-16}" \
  --max_steps "${MAX_STEPS:-3000}" \
  --logging_steps "${LOGGING_STEPS:-10}" \
  --save_steps "${SAVE_STEPS:-1000}" \
  --learning_rate "$LR" \
  --pre_seq_len "$PRE_SEQ_LEN" \
  --quantization_bit "${QUANTIZATION_BIT:-4}" \
  "$@"
