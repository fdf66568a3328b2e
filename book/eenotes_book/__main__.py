"""``python -m eenotes_book study 5`` runs a study, ``... record 3`` makes its record from the steps
that have finished, ``... probe 5`` renews a probe, ``... bench-rule my_module:MyRule`` puts a rule
beside ours on the recorded networks.
"""

import argparse
from importlib import import_module

import pandas as pd

from eenotes_book import probes
from eenotes_book.cache import write_json
from eenotes_book.chapters import FOLDERS


def main() -> None:
    """Run what the command line names, and print which file was written."""
    parser = argparse.ArgumentParser(prog="python -m eenotes_book", description=__doc__)
    kinds = parser.add_subparsers(dest="what", required=True)
    numbers = {int(name[:2]): name for name in FOLDERS}
    for what in ("study", "record", "probe"):
        of_chapter = kinds.add_parser(what)
        of_chapter.add_argument("number", type=int, choices=numbers, help="of the chapter")
    bench = kinds.add_parser("bench-rule")
    bench.add_argument("rule", help="module:Rule, a ScoreRule or a function that fits one")
    bench.add_argument("exits", nargs="*", help="such as resnet20/whitened; all, if none is named")
    asked = parser.parse_args()
    if asked.what == "bench-rule":
        print(_beside_ours(asked.rule, asked.exits))
        return
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


def _beside_ours(rule: str, names: list[str]) -> str:
    from eenotes_book.ch07_trust import rule_bench

    mine = rule_bench.bench(rule_bench.load(rule), names=names)
    kept = rule_bench.kept()
    both = pd.concat([mine, kept[kept.exits.isin(mine.exits)]]).sort_values("exits", kind="stable")
    return both.round(3).to_string(index=False)


if __name__ == "__main__":
    main()
