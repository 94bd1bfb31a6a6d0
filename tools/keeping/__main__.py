"""``python -m tools.keeping measure`` trains and examines; ``draw`` makes the docs' figures of what was measured."""

from __future__ import annotations

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.keeping", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    measuring = steps.add_parser("measure", help="a quarter of an hour on two cores for each seed")
    measuring.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    steps.add_parser("draw", help="write docs/figures/")
    arguments = parser.parse_args()
    if arguments.step == "measure":
        from tools.keeping.measure import measure

        measure(tuple(arguments.seeds))
    else:
        from tools.keeping.draw import draw_all

        draw_all()


if __name__ == "__main__":
    main()
