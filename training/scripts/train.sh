#!/usr/bin/env bash
# P-Tuning v2 on the advertising data, as the original's train.sh. Runs from anywhere; every value can be set from the
# environment, as in NUM_GPUS=2 PTUNE_DATA=~/AdvertiseGen bash training/scripts/train.sh; further flags are added at the
# end.
# Accumulated batches run together where memory allows, which is many times faster and changes no number.
set -euo pipefail
root="$(cd -P "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
for name in MODEL DATA OUTPUT; do # too common to be read from a stranger's environment
  [ -z "${!name:-}" ] || echo "$name is not read; set PTUNE_$name instead. 不读取 $name，请改用 PTUNE_$name。" >&2
done

PRE_SEQ_LEN="${PRE_SEQ_LEN:-128}"
LR="${LR:-2e-2}"
DATA="${PTUNE_DATA:-AdvertiseGen}"
OUTPUT="${PTUNE_OUTPUT:-output}"
CHECKPOINT="${CHECKPOINT:-adgen-chatglm2-6b-pt-$PRE_SEQ_LEN-$LR}"
export NUM_GPUS="${NUM_GPUS:-1}"

exec "$root/launch.sh" train \
  --do_train \
  --compat original \
  --model_name_or_path "${PTUNE_MODEL:-THUDM/chatglm2-6b}" \
  --train_file "${PTUNE_TRAIN_DATA:-$DATA/train.json}" \
  --validation_file "${PTUNE_VAL_DATA:-$DATA/dev.json}" \
  --prompt_column content \
  --response_column summary \
  --output_dir "$OUTPUT/$CHECKPOINT" \
  --overwrite_output_dir \
  --max_source_length "${PTUNE_MAX_SOURCE_LENGTH:-64}" \
  --max_target_length "${PTUNE_MAX_TARGET_LENGTH:-128}" \
  --per_device_train_batch_size "${PTUNE_BATCH_SIZE:-1}" \
  --gradient_accumulation_steps "${PTUNE_ACCUMULATION:-16}" \
  --max_steps "${PTUNE_MAX_STEPS:-3000}" \
  --logging_steps "${PTUNE_LOGGING_STEPS:-10}" \
  --save_steps "${PTUNE_SAVE_STEPS:-1000}" \
  --learning_rate "$LR" \
  --pre_seq_len "$PRE_SEQ_LEN" \
  --prefix_init "${PTUNE_PREFIX_INIT:-random}" \
  --keep "${PTUNE_KEEP:-0}" \
  --quantization_bit "${PTUNE_QUANTIZATION_BIT:-4}" \
  "$@"
