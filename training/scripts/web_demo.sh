#!/usr/bin/env bash
# The page with what train.sh trained in its right pane and the base model in its left one, as the original's web_demo.sh.
# Every value can be set from the environment; further flags, such as --port 7861, are added at the end.
set -euo pipefail
root="$(cd -P "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
for name in MODEL DATA OUTPUT; do # too common to be read from a stranger's environment
  [ -z "${!name:-}" ] || echo "$name is not read; set PTUNE_$name instead. 不读取 $name，请改用 PTUNE_$name。" >&2
done

PRE_SEQ_LEN="${PRE_SEQ_LEN:-128}"
LR="${LR:-2e-2}"
OUTPUT="${PTUNE_OUTPUT:-output}"
CHECKPOINT="${CHECKPOINT:-adgen-chatglm2-6b-pt-$PRE_SEQ_LEN-$LR}"
STEP="${STEP:-3000}"
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0}"

exec "$root/launch.sh" serve \
  --model_name_or_path "${PTUNE_MODEL:-THUDM/chatglm2-6b}" \
  --ptuning_checkpoint "$OUTPUT/$CHECKPOINT/checkpoint-$STEP" \
  --pre_seq_len "$PRE_SEQ_LEN" \
  "$@"
