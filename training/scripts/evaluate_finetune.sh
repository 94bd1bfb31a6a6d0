#!/usr/bin/env bash
# Scores of what ds_train_finetune.sh trained, as the original's evaluate_finetune.sh: its checkpoint is a complete model.
# Every value can be set from the environment; further flags are added at the end.
set -euo pipefail
root="$(cd -P "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"

LR="${LR:-1e-4}"
DATA="${DATA:-AdvertiseGen}"
OUTPUT="${OUTPUT:-output}"
CHECKPOINT="${CHECKPOINT:-adgen-chatglm2-6b-ft-$LR}"
STEP="${STEP:-3000}"

exec "$root/launch.sh" evaluate \
  --model_name_or_path "$OUTPUT/$CHECKPOINT/checkpoint-$STEP" \
  --validation_file "${VAL_DATA:-$DATA/dev.json}" \
  --test_file "${TEST_DATA:-$DATA/dev.json}" \
  --prompt_column content \
  --response_column summary \
  --output_dir "$OUTPUT/$CHECKPOINT" \
  --overwrite_output_dir \
  --max_source_length "${MAX_SOURCE_LENGTH:-256}" \
  --max_target_length "${MAX_TARGET_LENGTH:-256}" \
  --per_device_eval_batch_size "${EVAL_BATCH_SIZE:-16}" \
  "$@"
