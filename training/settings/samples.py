"""Where the demo model and the sample data lie, which a first run uses."""

from __future__ import annotations

from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
DEMO_MODEL = PROJECT_ROOT / "assets" / "demo-model"
SAMPLE_TRAIN_FILE = PROJECT_ROOT / "assets" / "data" / "train.json"
SAMPLE_DEV_FILE = PROJECT_ROOT / "assets" / "data" / "dev.json"
SAMPLE_GENERAL_FILE = PROJECT_ROOT / "assets" / "data" / "general.json"
SAMPLE_CHOICES_FILE = PROJECT_ROOT / "assets" / "data" / "choices.json"
SAMPLE_BIAS_FILE = PROJECT_ROOT / "assets" / "data" / "bias.json"
