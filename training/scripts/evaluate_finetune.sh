#!/usr/bin/env bash
# Scores of what ds_train_finetune.sh trained, as the original's evaluate_finetune.sh: its checkpoint is a complete model.
# Every value can be set from the environment; further flags are added at the end.
set -euo pipefail
root="$(cd -P "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
for name in MODEL DATA OUTPUT; do # too common to be read from a stranger's environment
  [ -z "${!name:-}" ] || echo "$name is not read; set PTUNE_$name instead. 不读取 $name，请改用 PTUNE_$name。" >&2
done

LR="${LR:-1e-4}"
DATA="${PTUNE_DATA:-AdvertiseGen}"
OUTPUT="${PTUNE_OUTPUT:-output}"
CHECKPOINT="${CHECKPOINT:-adgen-chatglm2-6b-ft-$LR}"
STEP="${STEP:-3000}"

exec "$root/launch.sh" evaluate \
  --compat original \
  --model_name_or_path "$OUTPUT/$CHECKPOINT/checkpoint-$STEP" \
  --validation_file "${PTUNE_VAL_DATA:-$DATA/dev.json}" \
  --test_file "${PTUNE_TEST_DATA:-$DATA/dev.json}" \
  --prompt_column content \
  --response_column summary \
  --output_dir "$OUTPUT/$CHECKPOINT" \
  --overwrite_output_dir \
  --max_source_length "${PTUNE_MAX_SOURCE_LENGTH:-256}" \
  --max_target_length "${PTUNE_MAX_TARGET_LENGTH:-256}" \
  --per_device_eval_batch_size "${PTUNE_EVAL_BATCH_SIZE:-16}" \
  "$@"
