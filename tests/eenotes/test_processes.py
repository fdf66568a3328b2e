"""Two and three processes of ``torch.distributed``, uneven and empty ones too, agree with one."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import distributed, nn
from torch.utils.data import TensorDataset

from eenotes import ClassMeans, Confidence, EarlyExitNetwork, LinearExit, collect, training
from eenotes.checkpoints import CheckpointWarning
from eenotes.costs import Costs
from eenotes.methods import cbt, e2cm, pruning_schedule
from eenotes.thresholds import evaluate, thresholds_for_budgets

COUNT = 40


def samples():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(COUNT) % 2
    x = torch.randn(COUNT, 4, generator=generator) + 2 * labels[:, None]
    return torch.cat([x[:20], 3 * x[20:]]), labels


def net():
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        stages = [nn.Sequential(nn.Linear(4, 8), nn.Tanh()), nn.Linear(8, 2)]
        return EarlyExitNetwork(stages, [LinearExit(8, 2)]).eval()


def estimates(rows):
    """Everything that is estimated from these rows of the samples."""
    x, y = (part[rows] for part in samples())
    batches = list(zip(x.split(5), y.split(5), strict=True)) if len(y) else []
    found = {}
    for how in ("mean", "rms"):
        (head,) = e2cm.fit(net().stages, batches, num_classes=2, normaliser=how).exits
        found |= {f"means, {how}": head.means, how: head.mean_distance}
    found["whitened"] = e2cm.fit_whitened(net().stages, batches, num_classes=2).exits[0].linear.bias
    means = ClassMeans(2)
    for part in batches:
        means.update(*part)
    found["rms distance"] = means.root_mean_square_distance()
    found["class means"] = means.compute()
    found["rms distance again"] = means.root_mean_square_distance()
    assert int(means.counts.sum()) == len(y), "each process has its own sums again"
    seen = [(net()(part), labels) for part, labels in batches]
    found["probabilities"] = cbt.statistics(seen, num_classes=2).per_exit
    logits, labels = collect(net(), batches)
    rule, costs = Confidence(0.5), Costs((10, 10), (1,))
    chosen = thresholds_for_budgets(logits, labels, rule, costs, budgets=(0.8,))
    found["thresholds"] = torch.tensor([float(value) for value in chosen.thresholds.iloc[0]])
    numbers = evaluate(logits, labels, rule, costs)
    found["evaluation"] = torch.tensor([numbers["accuracy"], numbers["relative_cost"]])
    found["accuracies"] = torch.tensor(pruning_schedule.accuracies(net(), batches))
    return {name: value.detach() for name, value in found.items()}


PARTS = {
    "halves": [slice(0, 20), slice(20, 40)],
    "uneven": [slice(0, 3), slice(3, 40)],
    "one class each": [slice(0, 40, 2), slice(1, 40, 2)],
    "empty first": [slice(0, 0), slice(0, 15), slice(15, 40)],
    "empty last": [slice(0, 40), slice(0, 0)],
}


def meet(folder, rank, count):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count
    )


def _estimate(rank, folder, parts):
    meet(folder, rank, len(parts))
    torch.save(estimates(parts[rank]), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def together(work, folder, count, *args):
    """What each process has saved; forked, as a spawned one would import for ten seconds."""
    torch.multiprocessing.start_processes(
        work, (str(folder), *args), nprocs=count, start_method="fork"
    )
    return [torch.load(folder / f"{rank}.pt") for rank in range(count)]


@pytest.fixture(scope="module")
def alone():
    return estimates(slice(0, COUNT))


@pytest.mark.parametrize("name", PARTS)
def test_processes_agree_with_one(name, alone, tmp_path):
    for found in together(_estimate, tmp_path, len(PARTS[name]), PARTS[name]):
        for what, value in alone.items():
            assert torch.allclose(found[what], value, rtol=1e-4, atol=1e-5), what


def _different_widths(rank, folder):
    meet(folder, rank, 2)
    means = ClassMeans(2)
    means.update(torch.randn(4, 3 + rank), torch.arange(4) % 2)
    with pytest.raises(ValueError, match="shapes") as caught:
        means.compute()
    torch.save(str(caught.value), f"{folder}/{rank}.pt")


def test_processes_with_other_features_are_refused(tmp_path):
    assert (
        together(_different_widths, tmp_path, 2)
        == ["the processes have features of the shapes [(3,), (4,)]"] * 2
    )


def losses(batch_size):
    return training.fit(
        net(), TensorDataset(*samples()), loss=training.joint_loss, epochs=2, batch_size=batch_size
    )


def normed():
    """A network with batch statistics and dropout."""
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        return EarlyExitNetwork([body, nn.Linear(8, 2)], [LinearExit(8, 2)])


class Killed(Exception):
    pass


def trained(checkpoint=None, *, kill_at=None, on_samples=None):
    """The weights after three epochs of five steps; with ``kill_at`` none after so many steps."""
    model, steps, last = normed(), [], [kill_at]  # lists are notes: the loss stays the same one

    def loss(net, batch):
        steps.append(len(batch[1]))
        if len(steps) == last[0]:
            raise Killed
        return training.joint_loss(net, batch)

    options = {"epochs": 3, "batch_size": 4, "checkpoint": checkpoint, "on_samples": on_samples}
    training.fit(model, TensorDataset(*samples()), loss=loss, **options)
    return model.state_dict(), len(steps)


def cut_off(rank, folder):
    """Two processes that are cut off in their second epoch, go on, and read different files."""
    path, seen = Path(folder, "run.safetensors"), []
    whole, steps = trained(on_samples={40: lambda: seen.append(1)})
    with pytest.raises(Killed):
        trained(path, kill_at=8)
    resumed, left = trained(path)
    with pytest.raises(ValueError, match="found there 3, 0 epochs: choose a folder that all") as no:
        trained(path if rank == 0 else Path(folder, "elsewhere.safetensors"))
    return {"whole": whole, "resumed": resumed, "steps": [steps, left, *seen], "no": str(no.value)}


START = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("these_tests", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module._work(int(sys.argv[2]), sys.argv[3], 2)
"""


def text_estimates(parts):
    """What is estimated from rows of a text, for some shares of the rows."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from eenotes.language import evaluation, exits, token_statistics

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=12, intermediate_size=16, initializer_range=0.3, **shape)
    exited = exits.attach(LlamaForCausalLM(config).eval(), at=1)
    text, found = torch.randint(12, (9, 8)), []
    for rows in parts:
        batches = text[rows].split(2) if len(text[rows]) else []
        features, labels = evaluation.collect(exited, batches)
        means = token_statistics.statistics(exited, batches).class_means
        moments = token_statistics.statistics(exited, batches, covariance=True)
        numbers = torch.tensor([*evaluation.evaluate(exited, batches).values(), moments.scatter])
        found.append([features, labels, means, moments.counts, moments.covariance, numbers])
    return found


TEXTS = [[slice(0, 2), slice(2, 9)], [slice(0, 0), slice(0, 9)], [slice(0, 9), slice(0, 0)]]


def _work(rank, folder, count):
    meet(folder, rank, count)
    texts = text_estimates([parts[rank] for parts in TEXTS])
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    AcceleratorState._reset_state(reset_partial_state=True)
    training.accelerator.cache_clear()
    assert training.accelerator().num_processes == count
    found = {"texts": texts, "losses": losses(8 // count), "cut off": cut_off(rank, folder)}
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.mark.slow
def test_two_fresh_processes_read_and_train_as_one(tmp_path):
    """A forked one must not multiply.  Two batches of four are one of eight."""
    started = [
        subprocess.Popen([sys.executable, "-c", START, __file__, str(rank), str(tmp_path)])
        for rank in range(2)
    ]
    (expected,) = text_estimates([slice(0, 9)])
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for found in both:
        for case in found["texts"]:
            for one, other in zip(case, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert found["losses"] == pytest.approx(losses(8), rel=1e-2)
    weights = [found["cut off"][how] for found in both for how in ("whole", "resumed")]
    for name, value in weights[0].items():
        assert all(torch.equal(other[name], value) for other in weights), name
    assert both[0]["cut off"]["steps"] == [15, 10, 1]
    with pytest.warns(CheckpointWarning, match="processes: 2 instead of None"):
        assert trained(tmp_path / "run.safetensors")[1] == 30, "a single process begins anew"
