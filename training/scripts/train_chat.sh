#!/usr/bin/env bash
# P-Tuning v2 on conversations, as the original's train_chat.sh: rows with prompt, response and history, named by
# CHAT_TRAIN_DATA and CHAT_VAL_DATA. Every value can be set from the environment; further flags are added at the end.
# Accumulated batches run together where memory allows, which is many times faster and changes no number.
set -euo pipefail
root="$(cd -P "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
for name in MODEL DATA OUTPUT; do # too common to be read from a stranger's environment
  [ -z "${!name:-}" ] || echo "$name is not read; set PTUNE_$name instead. 不读取 $name，请改用 PTUNE_$name。" >&2
done

PRE_SEQ_LEN="${PRE_SEQ_LEN:-128}"
LR="${LR:-1e-2}"
OUTPUT="${PTUNE_OUTPUT:-output}"
CHECKPOINT_NAME="${CHECKPOINT_NAME:-chat-chatglm2-6b-pt-$PRE_SEQ_LEN-$LR}"
case "$CHECKPOINT_NAME" in
  /*) directory="$CHECKPOINT_NAME" ;;
  *) directory="$OUTPUT/$CHECKPOINT_NAME" ;;
esac
export NUM_GPUS="${NUM_GPUS:-1}"

if [ -z "${CHAT_TRAIN_DATA:-}" ]; then
  echo "CHAT_TRAIN_DATA must name a file of conversations (prompt, response, history): CHAT_TRAIN_DATA=FILE bash $0" >&2
  echo "请用 CHAT_TRAIN_DATA 指定对话数据文件（prompt、response、history 三列）：CHAT_TRAIN_DATA=文件 bash $0" >&2
  exit 2
fi

exec "$root/launch.sh" train \
  --do_train \
  --compat original \
  --model_name_or_path "${PTUNE_MODEL:-THUDM/chatglm2-6b}" \
  --train_file "$CHAT_TRAIN_DATA" \
  ${CHAT_VAL_DATA:+--validation_file "$CHAT_VAL_DATA"} \
  --prompt_column prompt \
  --response_column response \
  --history_column history \
  --output_dir "$directory" \
  --overwrite_output_dir \
  --max_source_length "${PTUNE_MAX_SOURCE_LENGTH:-256}" \
  --max_target_length "${PTUNE_MAX_TARGET_LENGTH:-256}" \
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
