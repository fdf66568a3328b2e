"""Chapter 1's experiment: a network with early exits, what each image meets in it, and what leaving
saves on the clock.
"""

from eenotes.costs import count_macs
from eenotes.inference import collect
from eenotes.thresholds import cheapest_with_accuracy
from eenotes_book import networks, records, scale, settings
from eenotes_book.ch01_leaving import CHAPTER
from eenotes_book.ch01_leaving.claims import judge
from eenotes_book.ch01_leaving.experiment import (
    is_right,
    per_exit,
    rules_at_costs,
    single_threshold,
    validation_fronts,
)
from eenotes_book.data import vision
from eenotes_book.timing import relative_times, timings


def main(*, seed: int = 0) -> None:
    """The chapter's numbers without a notebook: ``python -m eenotes.studies.early_exits``."""
    s = settings.load(CHAPTER)
    data = vision.load(s.data, train=s.train, val=s.val, test=s.test)
    record = records.Record(CHAPTER, data={data.name: data.counts}, seeds=[seed])
    backbone, net = networks.resnet_with_exits(data, s, seed=seed)
    networks.train_or_load(net, data, s, seed=seed)
    x = data.test.tensors[0][: s.timing_batch].to(scale.device())
    costs, val, test = (
        count_macs(net, x[:1]),
        collect(net, vision.batches(data.val)),
        collect(net, vision.batches(data.test)),
    )
    front = validation_fronts(*val, costs, thresholds=s.thresholds, seed=seed)["confidence"]
    chosen = cheapest_with_accuracy(front, accuracy=is_right(*val)[-1].double().mean().item())[
        "rule"
    ]
    times = relative_times(timings(backbone, net, x, rules_at_costs(single_threshold(*val, costs))))
    judge(record, *test, costs, chosen=chosen, times=times)
    print(per_exit(*test, costs), times, record.table(), record.save(), sep="\n")


if __name__ == "__main__":
    main()
