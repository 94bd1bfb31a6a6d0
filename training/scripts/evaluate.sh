#!/usr/bin/env bash
# Scores of what train.sh trained, as the original's evaluate.sh: answers the rows of dev.json, 64 tokens each way, and
# writes generated_predictions.txt, predict_results.json and a report into the run's directory. Every value can be set
# from the environment; further flags, such as --baseline, are added at the end.
set -euo pipefail
root="$(cd -P "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"

PRE_SEQ_LEN="${PRE_SEQ_LEN:-128}"
LR="${LR:-2e-2}"
DATA="${DATA:-AdvertiseGen}"
OUTPUT="${OUTPUT:-output}"
CHECKPOINT="${CHECKPOINT:-adgen-chatglm2-6b-pt-$PRE_SEQ_LEN-$LR}"
STEP="${STEP:-3000}"

exec "$root/launch.sh" evaluate \
  --model_name_or_path "${MODEL:-THUDM/chatglm2-6b}" \
  --ptuning_checkpoint "$OUTPUT/$CHECKPOINT/checkpoint-$STEP" \
  --validation_file "${VAL_DATA:-$DATA/dev.json}" \
  --test_file "${TEST_DATA:-$DATA/dev.json}" \
  --prompt_column content \
  --response_column summary \
  --output_dir "$OUTPUT/$CHECKPOINT" \
  --overwrite_output_dir \
  --max_source_length "${MAX_SOURCE_LENGTH:-64}" \
  --max_target_length "${MAX_TARGET_LENGTH:-64}" \
  --per_device_eval_batch_size "${EVAL_BATCH_SIZE:-16}" \
  --pre_seq_len "$PRE_SEQ_LEN" \
  --quantization_bit "${QUANTIZATION_BIT:-4}" \
  "$@"
