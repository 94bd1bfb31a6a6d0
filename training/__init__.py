"""P-Tuning v2 training: data, trainer, runs on disk, metrics, command line. Knows no Gradio."""
