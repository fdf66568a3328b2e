"""Training: resumed is the same as never interrupted, files are data, and nothing of the loop stays
behind.
"""

import copy
import pickle
import random
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset, TensorDataset

from eenotes import EarlyExitNetwork, LinearExit, identity, training
from eenotes.checkpoints import CheckpointWarning, load_tensors, save_tensors
from eenotes.files import write_atomically
from eenotes.training import adamw, classification_loss, constant_rate, sgd, warmup_cosine


@pytest.fixture(autouse=True)
def one_accelerator():
    """Each test has an accelerator of its own; a process may only have one precision at a time."""
    yield
    training.accelerator.cache_clear()
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(params=["no", "bf16"])
def precision(request, monkeypatch):
    monkeypatch.setattr(training, "precision", lambda: request.param)
    return request.param


def data(count=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(
        torch.randn(count, 4, generator=generator), torch.randint(3, (count,), generator=generator)
    )


def model(seed=0, width=8):
    """With everything that could differ after a resume: batch statistics and dropout."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(4, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(width, 3),
        )


def network(seed=0):
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        stages = [
            nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU()),
            nn.Sequential(nn.Dropout(0.3), nn.Linear(8, 3)),
        ]
        return EarlyExitNetwork(stages, [LinearExit(8, 3)])


def noise(x, generator):
    return x + 0.1 * torch.randn(x.shape, generator=generator)


def weighted(net, batch, *, factor):
    return factor * classification_loss(net, batch)


class Counting:
    """A loss that counts its calls and can stop the run like a kill."""

    def __init__(self, stop_at=None):
        self.calls, self.stop_at, self.__name__ = 0, stop_at, "counting"
        self.of = classification_loss

    def __call__(self, net, batch):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        return self.of(net, batch)


def fit(net, loss=classification_loss, **options):
    return training.fit(
        net, options.pop("dataset", data()), loss=loss, **{"epochs": 3, "batch_size": 8, **options}
    )


def same(a, b):
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


def quiet(function):
    """Run without any CheckpointWarning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CheckpointWarning)
        return function()


# --- resume


@pytest.mark.parametrize("optimizer", [sgd, adamw])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(tmp_path, precision, optimizer):
    options = {"augment": noise, "optimizer": optimizer, "seed": 3}
    whole = model()
    history = fit(whole, Counting(), **options)

    first, path = model(), tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        # three batches an epoch: in the second
        fit(first, Counting(stop_at=5), checkpoint=path, **options)
    assert len(load_tensors(path)[1]["history"]) == 1

    torch.manual_seed(99)  # another process has drawn other numbers
    resumed, loss = model(), Counting()
    assert quiet(lambda: fit(resumed, loss, checkpoint=path, **options)) == history
    assert loss.calls == 6
    assert same(resumed, whole)


def test_a_finished_run_is_only_loaded(tmp_path):
    path, first = tmp_path / "deep" / "er" / "run.safetensors", model()
    history = fit(first, Counting(), checkpoint=path)
    again, loss = model().train(), Counting()
    assert quiet(lambda: fit(again, loss, checkpoint=path)) == history
    assert loss.calls == 0
    assert same(again, first)
    assert not any(part.training for part in again.modules())
    assert [file.name for file in path.parent.iterdir()] == ["run.safetensors"]


def test_the_seed_alone_decides():
    """Not what was drawn before; and what is drawn afterwards does not depend on the training."""
    nets = [model() for _ in range(3)]
    for net, outside, seed in zip(nets, (1, 2, 1), (0, 0, 1), strict=True):
        torch.manual_seed(outside)
        before = torch.get_rng_state()
        fit(net, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
    assert same(nets[0], nets[1])
    assert not same(nets[0], nets[2])


def test_every_epoch_has_an_order_of_its_own_and_every_sample_once():
    seen, numbers = [], data().tensors[0][:, 0].sort().values

    def loss(net, batch):
        seen.append(batch[0][:, 0])
        return classification_loss(net, batch)

    fit(model(), loss)
    epochs = [torch.cat(seen[i : i + 3]) for i in (0, 3, 6)]
    assert all(torch.equal(epoch.sort().values, numbers) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 3
    seen.clear()
    fit(model(), loss, epochs=2, first_epoch=1)
    assert torch.equal(torch.cat(seen), torch.cat(epochs[1:]))


# --- files that are not this run's


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def without_a_tensor(path):
    tensors, facts = load_tensors(path)
    del tensors["model.0.weight"]
    save_tensors(path, tensors, **facts)


FOREIGN = {"weight": torch.zeros(2)}
DAMAGE = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "header only": lambda path: path.write_bytes(path.read_bytes()[:9]),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"\xff" * 200),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Bomb())),
    "torch.save": lambda path: torch.save({"model": Bomb()}, path),
    "safetensors of others": lambda path: save_file(FOREIGN, path),
    "facts are no JSON": lambda path: save_file(FOREIGN, path, metadata={"facts": "{"}),
    "tensors missing": without_a_tensor,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_said_and_rebuilt(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path, first = tmp_path / "run.safetensors", model()
    fit(first, Counting(), checkpoint=path)
    DAMAGE[kind](path)
    again, loss = model(), Counting()
    with pytest.warns(CheckpointWarning, match="run.safetensors.*anew"):
        fit(again, loss, checkpoint=path)
    assert loss.calls == 9
    assert same(again, first)
    assert not Path("exploded").exists(), "the file was executed"
    quiet(lambda: fit(model(), Counting(), checkpoint=path))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"epochs": 4},
        {"batch_size": 6},
        {"dataset": data(count=16)},
        {"dataset": TensorDataset(data().tensors[0], 2 - data().tensors[1])},
        {"net": model(seed=1)},
        {"part": 0},
        {"optimizer": partial(sgd, lr=0.05)},
        {"optimizer": adamw},
        {"augment": noise},
        {"loss": Counting()},
        {"net": model(width=6)},
        {"part": 4},
        {"loss": partial(weighted, factor=2.0)},
        {"loss": lambda net, batch: 2 * classification_loss(net, batch)},
    ],
)
def test_a_checkpoint_of_another_run_is_said_and_rebuilt(tmp_path, change):
    path = tmp_path / "run.safetensors"
    fit(model(), checkpoint=path)
    options = {name: value for name, value in change.items() if name != "net"}
    net = change.get("net", model())
    twin = copy.deepcopy(net)
    if "part" in options:
        options["part"] = net[change["part"]]
    with pytest.warns(CheckpointWarning, match="another run"):
        fit(net, checkpoint=path, **options)
    if "part" in options:
        options["part"] = twin[change["part"]]
    if "loss" not in options:
        fit(twin, **options)
        assert same(net, twin), "nothing of the other run may have come along"


@pytest.mark.parametrize("before", [None, "old"])
def test_a_file_has_its_name_only_when_it_is_complete(tmp_path, before):
    path = tmp_path / "file"
    if before:
        path.write_text(before)
    with pytest.raises(OSError, match="no space"), write_atomically(path) as partial_file:
        partial_file.write_text("half")
        raise OSError("no space left on device")
    assert (path.read_text() if path.exists() else None) == before
    with write_atomically(path) as partial_file:
        partial_file.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_tensors_come_back_as_they_were(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    tensors = {"a": shared, "view": shared.T, "row": shared[0], "scalar": torch.tensor(3)}
    tensors["half"] = torch.ones(2).bfloat16()
    save_tensors(tmp_path / "x", tensors, text="ü", numbers=[1, 2.5])
    found, facts = load_tensors(tmp_path / "x")
    assert all(
        torch.equal(found[name], value) and found[name].dtype == value.dtype
        for name, value in tensors.items()
    )
    assert facts == {"text": "ü", "numbers": [1, 2.5]}
    with pytest.raises(ValueError, match="missing"):
        load_tensors(tmp_path / "missing")


# --- what is trained and what not


def test_training_lowers_the_loss_and_ends_in_evaluation_mode(precision):
    net = model()
    history = fit(net, epochs=10)
    assert len(history) == 10
    assert history[-1] < history[0]
    assert not any(part.training for part in net.modules())


def test_only_the_part_is_trained(precision, modes):
    """Frozen: neither weights nor running statistics move, not by a bit, and dropout is off."""
    net, before, seen = network(), network(), []
    net.stages[0][0].bias.requires_grad_(False)

    def loss(prepared, batch):
        seen.append((modes(net.stages), modes(net.exits), net.stages[0][0].weight.requires_grad))
        return training.exits_loss(prepared, batch)

    fit(net, loss, part=net.exits)
    assert same(net.stages, before.stages)
    assert not same(net.exits, before.exits)
    assert all(
        not any(frozen.values()) and all(trained.values()) and not wanted
        for frozen, trained, wanted in seen
    )
    assert all(p.requires_grad == (p is not net.stages[0][0].bias) for p in net.parameters())
    assert all(p.grad is None for p in net.stages.parameters())


def test_losses_by_hand():
    """Logits 0, 0 at the first exit cost ln 2; the last is sure: 0."""

    class Fixed(nn.Module):
        def forward(self, x):
            return [torch.zeros(2, 2), torch.tensor([[100.0, 0], [0, 100.0]])]

    batch = (torch.zeros(2, 1), torch.tensor([0, 1]))
    ln2 = pytest.approx(0.6931472)
    assert training.exits_loss(Fixed(), batch).item() == ln2
    assert training.joint_loss(Fixed(), batch).item() * 2 == ln2
    assert classification_loss(lambda x: torch.zeros(2, 2), batch).item() == ln2


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_loop_stays_in_the_model(precision, fails):
    """A second training of the same model is like the first."""
    net, inside = network(), []
    attributes, x = set(vars(net)), torch.randn(5, 4)

    def loss(prepared, batch):
        inside.append(prepared.stages[0][0](batch[0]).dtype)
        if fails and len(inside) == 2:
            raise KeyboardInterrupt
        return training.joint_loss(prepared, batch)

    with pytest.raises(KeyboardInterrupt) if fails else nullcontext():
        fit(net, loss)
        fit(net, loss, epochs=1, part=net.exits)
    assert set(inside) == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert set(vars(net)) == attributes
    assert all(p.requires_grad for p in net.parameters())
    whole = net.eval()(x)
    assert [z.dtype for z in whole] == [torch.float32] * 2
    assert torch.equal(net.stages[1](net.stages[0](x)), whole[1])
    assert not training.accelerator()._models and not training.accelerator()._dataloaders


NOT_FINITE = {"loss": lambda net, batch: classification_loss(net, batch) * float("inf")}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"dataset": data(count=0)}, "at least 1"),
        ({"dataset": iter([])}, "must have a length"),
        ({"part": nn.ModuleList()}, "without any to train"),  # not the whole model
        ({"part": nn.Linear(4, 3)}, "other parameters"),
        ({"on_samples": {-1: print}}, r"on_samples names \[-1\].*sees 72 samples"),
        ({"on_samples": {73: print}}, r"on_samples names \[73\].*sees 72 samples"),
        (NOT_FINITE, "epoch 1 is not finite"),
    ],
)
def test_what_is_refused_leaves_no_checkpoint_and_the_model_as_it_was(tmp_path, options, words):
    net, path = model(), tmp_path / "run.safetensors"
    with pytest.raises((ValueError, TypeError), match=words):
        fit(net, checkpoint=path, **options)
    assert not path.exists()
    assert same(net, model()) or options is NOT_FINITE


@pytest.mark.parametrize(
    ("count", "batch_size", "part", "fine"),
    [
        (25, 8, None, False),
        (24, 1, None, False),
        (1, 8, None, False),
        (25, 8, 4, True),
        (26, 8, None, True),
        (24, 8, None, True),
    ],
)
def test_batch_normalisation_of_a_single_vector(count, batch_size, part, fine):
    """PyTorch itself says where it cannot; here nothing was trained until then."""
    net, before = model(), model()
    part = net if part is None else net[part]
    options = {"dataset": data(count), "batch_size": batch_size, "part": part}
    if fine:
        fit(net, **options)
        return
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        before[1](before[0](data(count).tensors[0][:1]))
    with pytest.raises(ValueError, match=rf"1 of {count} samples at a batch size of {batch_size}"):
        fit(net, **options)
    assert same(net[4], before[4])
    assert torch.equal(net[1].running_mean, torch.zeros(8))


def test_a_single_feature_map_is_enough():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    fit(net, dataset=TensorDataset(torch.randn(9, 1, 5, 5), torch.arange(9) % 2), epochs=1)


# --- measurements on the way


@pytest.mark.parametrize("optimizer", [sgd, adamw])
def test_measuring_on_the_way_leaves_the_training_as_it_is(precision, modes, optimizer):
    """Batches of 8 of 24 samples: 10 have been seen after the second, 24 at the epoch's end."""
    net, alone, found = network(), network(), []
    x = torch.randn(5, 4)

    def measure(count):
        logits = net(x)[-1]
        assert not logits.requires_grad and not torch.is_autocast_enabled("cpu")
        found.append((count, loss.calls, set(modes(net).values())))
        assert torch.equal(logits, net.stages[1](net.stages[0](x))), "in full precision"

    loss = Counting()
    loss.of = training.joint_loss
    counts = {count: partial(measure, count) for count in (48, 10, 0, 24)}
    options = {"epochs": 2, "optimizer": optimizer}
    fit(net, loss, on_samples=counts, **options)
    fit(alone, training.joint_loss, **options)
    assert found == [(0, 0, {False}), (10, 2, {False}), (24, 3, {False}), (48, 6, {False})]
    assert same(net, alone)


def test_a_resumed_run_measures_only_what_is_ahead(tmp_path):
    found, path = [], tmp_path / "run.safetensors"
    counts = {count: partial(found.append, count) for count in (0, 8, 24, 32, 72)}
    with pytest.raises(KeyboardInterrupt):
        fit(model(), Counting(stop_at=5), on_samples=counts, checkpoint=path)
    assert found == [0, 8, 24, 32]
    fit(model(), Counting(), on_samples=counts, checkpoint=path)
    assert found == [0, 8, 24, 32, 32, 72]


# --- schedule


def test_the_rate_warms_up_and_falls_to_zero():
    shares = [warmup_cosine(i / 1000) for i in range(1001)]
    points = [shares[i] for i in (0, 50, 100, 550, 1000)]
    assert points == pytest.approx([0.1, 0.55, 1.0, 0.5, 0.0], abs=1e-6)
    assert shares[:101] == sorted(shares[:101])
    assert shares[100:] == sorted(shares[100:], reverse=True)


@pytest.mark.parametrize("schedule", [warmup_cosine, constant_rate])
def test_the_learning_rate_follows_the_schedule(tmp_path, schedule):
    """Over all epochs, after a resume too."""
    rates, path = [], tmp_path / "run.safetensors"

    class Recorded(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    options = {"optimizer": partial(Recorded, lr=0.2), "schedule": schedule, "epochs": 2}
    with pytest.raises(KeyboardInterrupt):
        fit(model(), Counting(stop_at=4), checkpoint=path, **options)
    quiet(lambda: fit(model(), Counting(), checkpoint=path, **options))
    assert rates == pytest.approx([0.2 * schedule(i / 6) for i in range(6)])
    with pytest.warns(CheckpointWarning, match="another run"):
        fit(model(), Counting(), checkpoint=path, **options | {"schedule": lambda progress: 0.5})


def test_random_transforms_are_the_same_data():
    class Noisy(Dataset):
        def __len__(self):
            return 300

        def __getitem__(self, row):
            return {"x": torch.randn(3) + random.random(), "y": np.array(row)}

    assert identity.data_digest(Noisy()) == identity.data_digest(Noisy())


class NothingReadBack(TorchDispatchMode):
    """An accelerator would have to finish everything before a number could be read."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function._schema.name not in ("aten::_local_scalar_dense", "aten::nonzero")
        masks = args[1] if function._schema.name == "aten::index" else ()
        assert not any(mask is not None and mask.dtype == torch.bool for mask in masks)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("batch_size", [4, 5])
def test_a_step_reads_no_number_back(batch_size):
    """The labels are checked on the CPU, before they move, also where -100 stands among them."""
    labels, calls = torch.tensor([0, 1, -100, 2, 1, 0, 0, 2, 1, 1, 0, -100]), []

    def loss(model, batch):
        calls.append(len(batch[0]))
        with NothingReadBack():
            return training.joint_loss(model, batch)

    data = TensorDataset(torch.randn(12, 4), labels)
    net = EarlyExitNetwork([nn.Linear(4, 8), nn.Linear(8, 3)], [LinearExit(8, 3)])
    training.fit(net, data, loss=loss, epochs=2, batch_size=batch_size)
    assert sum(calls) == 24
    with pytest.raises(ValueError, match=r"0\.\.2, got 0\.\.7"):
        data = TensorDataset(torch.randn(12, 4), torch.tensor([0, 7] * 6))
        training.fit(net, data, loss=training.joint_loss, epochs=1, batch_size=4)
