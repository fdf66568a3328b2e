"""One training loop for every network, on `accelerate`: resumable, with measurements on the way."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from eenotes._checks import as_input, by_name, entering, pair, require_between, require_whole
from eenotes._processes import gathered, share_buffers
from eenotes._wrapping import check_single_samples, own_randomness, prepared, refresh
from eenotes.checkpoints import resume, save_run
from eenotes.identity import data_digest, described, fingerprint
from eenotes.network import in_mode

Loss = Callable[[nn.Module, tuple[Tensor, ...]], Tensor]
Schedule = Callable[[float], float]

# The labels of the batch in hand, and the least and the largest of them: `fit` knows them.
_KNOWN: ContextVar[tuple[Tensor | None, list[int]]] = ContextVar("labels", default=(None, []))
_IGNORED = -100  # PyTorch's label of what is left out of a loss

sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
adamw = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.05)


@cache
def accelerator():
    """The process's one `accelerate.Accelerator`, with the `precision` of the device."""
    from accelerate import Accelerator, DataLoaderConfiguration

    loading = DataLoaderConfiguration(use_seedable_sampler=True)
    return Accelerator(mixed_precision=precision(), dataloader_config=loading)


def precision() -> str:
    """``"bf16"``, ``"fp16"`` or ``"no"``, in accelerate's words."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"


def classification_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of a plain classifier's logits ``(B, K)``; labels ``(B,)``."""
    x, y = pair(batch)
    return cross_entropy([model(x)], y)


def joint_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy averaged over all exits (BranchyNet with equal weights); labels ``(B,)``."""
    x, y = pair(batch)
    return cross_entropy(model(x), y)


def exits_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy averaged over the early exits, for a frozen backbone; labels ``(B,)``."""
    x, y = pair(batch)
    return cross_entropy(model(x)[:-1], y)


def cross_entropy(exits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy averaged over the logits of some exits, ``(B, K)`` or ``(B, K, *space)`` each.

    Labels are ``(B,)`` or ``(B, *space)`` whole numbers in 0..K-1, and -100 for what is left out;
    or the probabilities of the classes, floats in the shape of the logits.

    Raises:
        ValueError: labels of another shape, outside 0..K-1, or none that counts.
        TypeError: labels that are no whole numbers.
    """
    first = exits[0]
    if not (labels.is_floating_point() and labels.shape == first.shape):
        require_whole(labels)
        if labels.shape != first[:, 0].shape:
            shapes = f"{tuple(first[:, 0].shape)}, got {tuple(labels.shape)}"
            raise ValueError(f"need one label per sample, {shapes}")
        known, extremes = _KNOWN.get()
        extremes = extremes if labels is known else _extremes(labels)
        if not extremes:
            raise ValueError(f"every label of the batch is {_IGNORED}: it has no loss")
        require_between(*extremes, num_classes=first.shape[1])
        labels = labels.long()
    losses = [nn.functional.cross_entropy(logits, labels) for logits in exits]
    return torch.stack(losses).mean()


def _extremes(labels: Tensor) -> list[int]:
    """The least and the largest label that counts; nothing if none does."""
    labels = labels.long()
    counted = labels[labels != _IGNORED]
    return torch.stack([counted.min(), counted.max()]).tolist() if len(counted) else []


def _collated(found: deque, items: list) -> object:
    """A batch, whose extreme labels are found before it moves to a device, which would wait."""
    batch = by_name(default_collate(items))
    labels = batch[1] if isinstance(batch, tuple | list) and len(batch) == 2 else None
    whole = isinstance(labels, Tensor) and not labels.is_floating_point()
    found.append(_extremes(labels) if whole else [])
    return batch


def warmup_cosine(progress: float) -> float:
    """The share of the peak at ``progress`` in [0, 1]: a line from 0.1 to 1, a cosine to 0."""
    if progress < 0.1:
        return 0.1 + 9 * progress
    return 0.5 * (1 + math.cos((progress - 0.1) / 0.9 * math.pi))


def constant_rate(progress: float) -> float:
    """The peak at every ``progress`` in [0, 1]."""
    return 1.0


def fit(
    model: nn.Module,
    dataset: Dataset,
    *,
    loss: Loss,
    epochs: int,
    batch_size: int,
    optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer] = sgd,
    part: nn.Module | None = None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    schedule: Schedule = warmup_cosine,
    on_samples: Mapping[int, Callable[[], object]] | None = None,
    first_epoch: int = 0,
    seed: int = 0,
    checkpoint: Path | None = None,
    title: str = "training",
) -> list[float]:
    """Train a model in place, and leave it in evaluation mode on the accelerator's device.

    Args:
        dataset: of ``(x, y)`` or other tuples of tensors, or of dictionaries with ``pixel_values``
            and ``labels``.
        loss: from the model and a batch to a scalar.
        batch_size: samples per step and process.
        optimizer: from parameters to an optimizer; its learning rate is the peak.
        part: the module to train, for example ``net.exits``.  Everything else stays frozen: no
            gradients, and in evaluation mode, so that batch normalisation keeps its statistics.
        augment: from the first tensor of a batch and a generator to the tensor to train on.
        schedule: from the progress of the training, 0 to 1, to a share of the peak.
        on_samples: what to call as soon as so many samples have been seen over all epochs, with
            the model in evaluation mode, in full precision and without gradients.  After a
            checkpoint only what is still ahead is called.
        first_epoch: the number of the first epoch, from which the order of its samples follows.
        seed: of the order of the samples, of `augment` and of dropout; the generators outside stay.
        checkpoint: a ``.safetensors`` file, written after every epoch.  A run that was cut off goes
            on after its last whole epoch and ends with the same weights.  A damaged file, or one of
            another data set, loss, start, setting (see `eenotes.identity`) or number of processes,
            is reported by a `CheckpointWarning` and written anew.

    Returns:
        The mean training loss of each epoch.

    Raises:
        ValueError: no data, epoch or batch size, a key of `on_samples` beyond the training, a part
            with nothing to train or of another model, a batch of one sample with batch
            normalisation, a loss that is not finite, or processes that read other checkpoints.
        TypeError: a data set without a length.
    """
    waiting = dict(sorted((on_samples or {}).items()))
    if not hasattr(dataset, "__len__"):
        raise TypeError(f"the data set must have a length, and {type(dataset).__name__} has none")
    _check(len(dataset), epochs, batch_size, waiting)
    part = model if part is None else part  # a list of exits can be empty
    model.to(accelerator().device)
    trained = {id(p): p for p in part.parameters() if p.requires_grad}
    if not trained or not trained.keys() <= set(map(id, model.parameters())):
        what = "of other parameters than the model's" if trained else "without any to train"
        raise ValueError(f"nothing would be learned: the part is one {what}")
    optimizer = optimizer(list(trained.values()))
    history = []
    if checkpoint:
        run = {"epochs": epochs, "batch_size": batch_size, "seed": seed, "samples": len(dataset)}
        run |= {"first_epoch": first_epoch, "optimizer": repr(optimizer)}
        called = {"loss": loss, "augment": augment, "schedule": schedule}
        run |= {name: described(function) for name, function in called.items()}
        run |= {"data": data_digest(dataset), "start": fingerprint(model)}
        run["part"] = described([name for name, p in model.named_parameters() if id(p) in trained])
        history = _resumed(checkpoint, run, model, optimizer)
    done = len(history)
    if done:
        waiting = {n: call for n, call in waiting.items() if n > done * len(dataset)}
    if done < epochs:
        if accelerator().num_processes == 1:  # several fill up their last batch
            check_single_samples(model, part, dataset, loss, batch_size=batch_size)
        found: deque[list[int]] = deque()  # accelerate reads a batch ahead
        collate = partial(_collated, found)
        loader = DataLoader(dataset, batch_size, shuffle=True, collate_fn=collate)
        with (
            own_randomness(accelerator().device, seed),
            prepared(accelerator(), model, part, optimizer, loader) as (net, stepper, batches),
        ):
            rate = _scheduler(optimizer, schedule, done=done, epochs=epochs, steps=len(batches))
            _call_due(waiting, done * len(dataset), model)
            for epoch in progress_bar(range(done, epochs), title, done=done, total=epochs):
                model.eval()
                part.train()
                number = first_epoch + epoch
                numbers = seed * 10_007 + number + 1_000_003 * accelerator().process_index
                torch.manual_seed(numbers)  # each process draws its own
                batches.set_epoch(number)
                generator = torch.Generator(accelerator().device)
                generator.manual_seed(numbers)
                total = torch.zeros((), device=accelerator().device)
                seen = epoch * len(dataset)
                for batch in progress_bar(batches, f"epoch {epoch + 1}/{epochs}"):
                    extremes = found.popleft()
                    if isinstance(batch, tuple | list) and isinstance(batch[0], Tensor):
                        x = as_input(batch[0], model)
                        x = x if augment is None else augment(x, generator)
                        batch = (x, *batch[1:])
                        _KNOWN.set((batch[1] if len(batch) == 2 else None, extremes))
                    total += _step(net, stepper, loss, batch)
                    rate.step()
                    seen += batch_size * accelerator().num_processes
                    _call_due(waiting, min(seen, (epoch + 1) * len(dataset)), model)
                total = accelerator().reduce(total, reduction="mean")
                if not total.isfinite():
                    what = f"{title}: the loss of epoch {epoch + 1} is not finite"
                    raise ValueError(f"{what}; lower the learning rate")
                history.append(total.item() / len(batches))
                if accelerator().num_processes > 1:
                    share_buffers(model)
                if checkpoint and accelerator().is_main_process:
                    save_run(checkpoint, run, model, optimizer, history)
                accelerator().wait_for_everyone()  # who comes back finds the file
    model.eval()
    return history


def _resumed(
    path: Path, run: dict, model: nn.Module, optimizer: torch.optim.Optimizer
) -> list[float]:
    """What `resume` finds; the first of several processes writes, so its run is asked for."""
    several = accelerator().num_processes
    if several == 1:
        return resume(path, run, model, optimizer)
    run["processes"] = several
    histories = gathered(resume(path, gathered(run)[0], model, optimizer))
    if any(history != histories[0] for history in histories):
        epochs = ", ".join(str(len(history)) for history in histories)
        what = f"the processes need one {path} for all, and found there {epochs} epochs"
        raise ValueError(f"{what}: choose a folder that all of them share")
    return histories[0]


def progress_bar(iterable: Iterable, title: str, *, done: int = 0, total: int | None = None):
    """What ``iterable`` gives, with a bar until it ends; ``done`` of ``total`` were done before."""
    from tqdm.auto import tqdm

    return tqdm(iterable, desc=title, leave=False, initial=done, total=total, disable=None)


def _step(model, optimizer, loss: Loss, batch) -> Tensor:
    x = batch[0] if isinstance(batch, tuple | list) else None
    with accelerator().autocast(), entering(x, model):
        value = loss(model, batch)
    accelerator().backward(value)
    optimizer.step()
    optimizer.zero_grad()
    return value.detach()


def _scheduler(
    optimizer: torch.optim.Optimizer, schedule: Schedule, *, done: int, epochs: int, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The schedule after ``done`` of so many epochs of so many steps."""
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]  # without it LambdaLR cannot go on in the middle
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: schedule(step / (epochs * steps)), last_epoch=done * steps - 1
    )


def _check(samples: int, epochs: int, batch_size: int, counts: Iterable[int]) -> None:
    if samples == 0 or epochs < 1 or batch_size < 1:
        given = f"got {samples}, {epochs}, {batch_size}"
        raise ValueError(f"need data, epochs and a batch size of at least 1, {given}")
    if beyond := [count for count in counts if not 0 <= count <= epochs * samples]:
        raise ValueError(f"on_samples names {beyond}; the training sees {epochs * samples} samples")


def _call_due(waiting: dict[int, Callable[[], object]], seen: int, model: nn.Module) -> None:
    """Call, and take out, what waits for no more samples than these."""
    due = [waiting.pop(count) for count in list(waiting) if count <= seen]
    if due:
        if accelerator().num_processes > 1:
            share_buffers(model)
        refresh(model.modules())
        with in_mode(model), torch.no_grad():
            for call in due:
                call()
