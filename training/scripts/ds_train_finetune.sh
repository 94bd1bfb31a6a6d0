#!/usr/bin/env bash
# Full fine-tuning on the advertising data, as the original's ds_train_finetune.sh: four GPUs share the weights, the
# gradients and the optimizer by DeepSpeed's ZeRO-2 (training/scripts/deepspeed.json), which needs `pip install deepspeed`.
# PTUNE_SHARING=fsdp uses torch's own FSDP2 instead; NUM_GPUS=1 trains in bfloat16 on one large GPU. Every value can be
# set from the environment; further flags are added at the end.
set -euo pipefail
root="$(cd -P "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
for name in MODEL DATA OUTPUT; do # too common to be read from a stranger's environment
  [ -z "${!name:-}" ] || echo "$name is not read; set PTUNE_$name instead. 不读取 $name，请改用 PTUNE_$name。" >&2
done

LR="${LR:-1e-4}"
DATA="${PTUNE_DATA:-AdvertiseGen}"
OUTPUT="${PTUNE_OUTPUT:-output}"
CHECKPOINT="${CHECKPOINT:-adgen-chatglm2-6b-ft-$LR}"
export NUM_GPUS="${NUM_GPUS:-4}"

sharing=()
if [ "$NUM_GPUS" != 1 ]; then
  case "${PTUNE_SHARING:-deepspeed}" in
    deepspeed) sharing=(--deepspeed "${PTUNE_DEEPSPEED_CONFIG:-$root/training/scripts/deepspeed.json}" --fp16) ;;
    fsdp) sharing=(--fsdp full_shard) ;;
    *)
      echo "PTUNE_SHARING must be deepspeed or fsdp; found '${PTUNE_SHARING:-}'. PTUNE_SHARING 应为 deepspeed 或 fsdp。" >&2
      exit 2
      ;;
  esac
fi

exec "$root/launch.sh" train \
  --do_train \
  --compat original \
  --model_name_or_path "${PTUNE_MODEL:-THUDM/chatglm2-6b}" \
  --train_file "${PTUNE_TRAIN_DATA:-$DATA/train.json}" \
  --test_file "${PTUNE_TEST_DATA:-$DATA/dev.json}" \
  --prompt_column content \
  --response_column summary \
  --output_dir "$OUTPUT/$CHECKPOINT" \
  --overwrite_output_dir \
  --max_source_length "${PTUNE_MAX_SOURCE_LENGTH:-64}" \
  --max_target_length "${PTUNE_MAX_TARGET_LENGTH:-64}" \
  --per_device_train_batch_size "${PTUNE_BATCH_SIZE:-4}" \
  --gradient_accumulation_steps "${PTUNE_ACCUMULATION:-1}" \
  --max_steps "${PTUNE_MAX_STEPS:-5000}" \
  --logging_steps "${PTUNE_LOGGING_STEPS:-10}" \
  --save_steps "${PTUNE_SAVE_STEPS:-1000}" \
  --learning_rate "$LR" \
  ${sharing[@]+"${sharing[@]}"} \
  "$@"
