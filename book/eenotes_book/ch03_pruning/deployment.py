"""What zeros save in chapter 3, and what missing channels save: bytes, MACs and seconds."""

import gzip
import math
from functools import partial

import pandas as pd
import torch
from safetensors.torch import save

from eenotes import training
from eenotes.costs import count_macs
from eenotes.methods import pruning, pruning_schedule
from eenotes.network import EarlyExitNetwork
from eenotes_book import networks, statistics, timing
from eenotes_book.ch03_pruning import pruned_costs
from eenotes_book.ch03_pruning.experiment import Bench, checkpoint
from eenotes_book.data import vision


def without_channels(b: Bench) -> EarlyExitNetwork:
    """The network with whole channels removed, then fine-tuned.

    As many channels go as leave about the weights that the schedules leave.  Removed at once
    instead of in rounds, it has more to relearn: it sees as many images as in approach 1, in whole
    epochs, at the learning rate of the first training.
    """
    s = b.s
    thin = pruned_costs.prune_channels(
        b.net, b.sample, ratio=1 - math.sqrt((1 - s.rate) ** s.rounds)
    )
    epochs = math.ceil(s.rounds * s.samples / len(b.data.train))
    training.fit(
        thin,
        b.data.train,
        loss=training.joint_loss,
        epochs=epochs,
        batch_size=s.tune_batch,
        optimizer=partial(training.sgd, lr=s.learning_rate),
        augment=networks.augmentation(b.data),
        seed=b.seed,
        checkpoint=checkpoint(b, "channels", rate=s.rate, rounds=s.rounds, passes=epochs),
        title="fewer channels",
    )
    return thin


def checkpoint_bytes(net: EarlyExitNetwork, *, compress: bool = True) -> int:
    """The size of the network as a safetensors file without masks, gzipped or plain.

    (3.5) says how small it can get.
    """
    state = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in pruning.permanent(net).state_dict().items()
    }
    content = save(state)
    return len(gzip.compress(content, mtime=0) if compress else content)


@torch.inference_mode()
def measured(
    b: Bench, nets: dict[str, EarlyExitNetwork], *, batch_size: int, rounds: int = 5
) -> pd.DataFrame:
    """What several networks save: plain copies without masks, timed side by side with all exits.

    Returns:
        One row per network: ``weights`` (not zero), ``parameters`` (stored), ``effective MACs``,
        ``MACs`` (done), ``file`` and ``gzip`` (bytes), ``seconds`` (per batch), ``early`` and
        ``last`` (test accuracy).
    """
    x = b.data.test.tensors[0][:batch_size].to(b.sample.device)
    plain = {name: pruning.permanent(net) for name, net in nets.items()}
    seconds = timing.median_seconds(
        {name: partial(net, x) for name, net in plain.items()}, rounds=rounds
    )
    rows = {}
    for name, net in plain.items():
        table = pruned_costs.sparsity_table(net)
        accuracy = pruning_schedule.accuracies(net, vision.batches(b.data.test))
        rows[name] = {
            "weights": int(table.weights.sum() - table.zeros.sum()),
            "parameters": int(table.weights.sum()),
            "effective MACs": pruned_costs.effective_costs(net, b.sample).backbone,
            "MACs": count_macs(net, b.sample).backbone,
            "file": checkpoint_bytes(net, compress=False),
            "gzip": checkpoint_bytes(net),
            "seconds": seconds[name],
            "early": statistics.mean(accuracy[:-1]),
            "last": accuracy[-1],
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def relative(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of `measured` that can be saved, as parts of the first row."""
    columns = ["weights", "effective MACs", "MACs", "file", "gzip", "seconds"]
    return table[columns] / table[columns].iloc[0]
