"""``python -m eenotes.studies 2``: the many-seed study behind chapter 2.  Jupyter is not needed; an interrupted study goes on."""

import argparse
from importlib import import_module

STUDIES = {2: "chapter2", 4: "cbt"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m eenotes.studies", description="run the many-seed study behind a chapter")
    parser.add_argument("chapter", type=int, choices=STUDIES)
    chapter = parser.parse_args().chapter
    print("recorded in", import_module(f"eenotes.studies.{STUDIES[chapter]}").study())


if __name__ == "__main__":
    main()
