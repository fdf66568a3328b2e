"""``python -m eenotes_book study 5`` runs a study, ``... record 3`` makes its record from the steps
that have finished, ``... probe 5`` renews a probe.
"""

import argparse
from importlib import import_module

from eenotes_book import probes
from eenotes_book.cache import write_json
from eenotes_book.chapters import FOLDERS


def main() -> None:
    """Run what the command line names, and print which file was written."""
    parser = argparse.ArgumentParser(prog="python -m eenotes_book", description=__doc__)
    parser.add_argument("what", choices=["study", "record", "probe"])
    numbers = {int(name[:2]): name for name in FOLDERS}
    parser.add_argument("number", type=int, choices=numbers, help="of the chapter")
    asked = parser.parse_args()
    chapter = numbers[asked.number]
    if asked.what == "probe":
        print(write_json(probes.path_of(chapter), probes.run(chapter)))
        return
    try:
        module = import_module(f"eenotes_book.{FOLDERS[chapter]}.study")
    except ModuleNotFoundError:
        parser.error(f"chapter {asked.number} has no study")
    if not hasattr(module, asked.what):
        parser.error(f"the study of chapter {asked.number} makes no record on the way")
    print(getattr(module, asked.what)())


if __name__ == "__main__":
    main()
