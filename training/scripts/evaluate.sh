#!/usr/bin/env bash
# Scores of what train.sh trained, as the original's evaluate.sh: answers the rows of dev.json, 64 tokens each way, and
# writes generated_predictions.txt, predict_results.json and a report into the run's directory. Every value can be set
# from the environment; further flags, such as --baseline, are added at the end.
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
STEP="${STEP:-3000}"

exec "$root/launch.sh" evaluate \
  --compat original \
  --model_name_or_path "${PTUNE_MODEL:-THUDM/chatglm2-6b}" \
  --ptuning_checkpoint "$OUTPUT/$CHECKPOINT/checkpoint-$STEP" \
  --validation_file "${PTUNE_VAL_DATA:-$DATA/dev.json}" \
  --test_file "${PTUNE_TEST_DATA:-$DATA/dev.json}" \
  --prompt_column content \
  --response_column summary \
  --output_dir "$OUTPUT/$CHECKPOINT" \
  --overwrite_output_dir \
  --max_source_length "${PTUNE_MAX_SOURCE_LENGTH:-64}" \
  --max_target_length "${PTUNE_MAX_TARGET_LENGTH:-64}" \
  --per_device_eval_batch_size "${PTUNE_EVAL_BATCH_SIZE:-16}" \
  --pre_seq_len "$PRE_SEQ_LEN" \
  --quantization_bit "${PTUNE_QUANTIZATION_BIT:-4}" \
  "$@"
