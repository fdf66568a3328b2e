"""Two real processes of ``torch.distributed`` that estimate from the two parts of a batch.

They stay, because a start takes seconds, and are started anew after one of them has refused.
"""

import multiprocessing
import pickle
import tempfile
import warnings
from datetime import timedelta

import torch
from torch import distributed

from eenotes import collect
from eenotes.class_statistics import ClassMoments
from eenotes.methods import e2cm

PATIENCE = 120  # seconds


def estimates(stages, x, labels, classes):
    """Everything that is estimated from samples ``(B, ...)`` for the exits of some stages."""
    batches = list(zip(x.split(5), labels.split(5), strict=True)) if len(x) else []
    found = {}
    for how in ("mean", "rms"):
        net = e2cm.fit(stages, batches, num_classes=classes, normaliser=how)
        found |= {f"{how} {j}": head.mean_distance for j, head in enumerate(net.exits)}
    found |= {f"means {j}": head.means for j, head in enumerate(net.exits)}
    found["logits"], found["labels"] = collect(net, batches)
    moments = ClassMoments(classes)
    for part, of_part in batches:
        moments.update(stages[0](part).flatten(1), of_part)
    found["moments"], _, found["covariance"] = vars(moments.compute()).values()
    net = e2cm.fit_whitened(stages, batches, num_classes=classes, shrinkage=0.5)
    found |= {f"whitened {j}": head.linear.weight for j, head in enumerate(net.exits)}
    return {name: value.detach() for name, value in found.items()}


def _serve(connection, rank, folder):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    meet = {"init_method": f"file://{folder}/meet", "timeout": timedelta(seconds=PATIENCE)}
    distributed.init_process_group("gloo", rank=rank, world_size=2, **meet)
    while work := connection.recv_bytes():
        with torch.no_grad():
            try:
                answer = estimates(*pickle.loads(work))
            except Exception as error:
                answer = error
        connection.send_bytes(pickle.dumps(answer))


class Pair:
    """Two processes, started when they are first asked."""

    def __init__(self):
        self.running = []

    def start(self):
        spawn, self.folder = multiprocessing.get_context("spawn"), tempfile.TemporaryDirectory()
        for rank in range(2):
            here, there = spawn.Pipe()
            args = (there, rank, self.folder.name)
            process = spawn.Process(target=_serve, args=args, daemon=True)
            process.start()
            self.running.append((process, here))

    def ask(self, stages, x, labels, classes, first):
        """What each process estimates, one from the first samples and one from the others."""
        if not self.running:
            self.start()
        for (_, here), rows in zip(self.running, [slice(first), slice(first, None)], strict=True):
            here.send_bytes(pickle.dumps((stages, x[rows], labels[rows], classes)))
        answers = []
        for _, here in self.running:
            answer = TimeoutError(f"no answer in {PATIENCE} s")
            if here.poll(PATIENCE):
                answer = pickle.loads(here.recv_bytes())
            if isinstance(answer, Exception):
                self.close()
                raise answer
            answers.append(answer)
        return answers

    def close(self):
        for process, _ in self.running:
            process.kill()
            process.join()
        self.running = []
