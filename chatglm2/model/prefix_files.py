"""The names of the files that may hold a prefix; apart from `prefix.py`, so that to list checkpoints loads no torch."""

PREFIX_FILE = "prefix.safetensors"
# Where a checkpoint directory may keep its prefix: ours, then the original's, then what transformers writes today.
CANDIDATE_FILES = (PREFIX_FILE, "pytorch_model.bin", "model.safetensors")
# Longer ones are refused, in training as in reading: the rest of the context would be too short to answer in.
LONGEST_PREFIX_TOKENS = 2048
