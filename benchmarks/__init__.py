"""What backs each figure in the README: run as ``./launch.sh bench NAME`` or ``python -m benchmarks.NAME``."""
