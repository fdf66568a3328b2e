"""Part of chapter 6's probe: the race of heads at epoch 0, frozen training, the tuned lens."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from eenotes.class_statistics import ClassMoments
from eenotes.language import exits
from eenotes_book import probes
from eenotes_book.ch06_language import epoch_zero, estimated, frozen_training, lens, race
from eenotes_book.ch06_language.features import Pretrained
from eenotes_book.ch06_language.probe_of_text import SEED, Numbers
from eenotes_book.ch06_language.settings import PretrainedSettings, TrainingSettings
from eenotes_book.data.text import Text
from eenotes_book.probes import digest

_V, _D = 40, 8


def of_race() -> Numbers:
    """Kinds of class means on a simulated channel, merged statistics, and a lens."""
    with probes.default_dtype(torch.float32):
        raced = {
            f"race_{'whitened' if coloured else 'white'}": estimated.race(
                coloured=coloured, n=400, tokens=_V, width=_D, count=500, seed=SEED
            ).accuracy.tolist()
            for coloured in (False, True)
        }
        x, labels, weight = _drawn()
        parts = [_statistics(x[:150], labels[:150]), _statistics(x[150:300], labels[150:300])]
        racer = race.Racer(epoch_zero.merged(parts))
        every = torch.ones(len(x) - 300, 1, dtype=torch.bool)
        heads = race.candidates()
        found = race.count_right(
            x[300:], labels[300:], every, copied_weight=weight, racers={"all": (racer, heads)}
        )["all"]
    metrics = racer.metrics
    return raced | {
        "race_kappa": metrics["identity"].kappa,
        "race_kappa_whitened": metrics["whitened"].kappa,
        "race_plain": [int(found[head]) for head in heads if head[0] == "identity"],
        "race_whitened_heads": [int(found[head]) for head in heads if head[0] == "whitened"],
        "lens": _lens(),
        **_frozen(),
    }


def _drawn() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    points = torch.randn(_V, _D, generator=generator)
    labels = torch.multinomial(1 / torch.arange(1.0, _V + 1), 600, True, generator=generator)
    noise = torch.randn(600, _D, generator=generator) * torch.linspace(0.3, 1.2, _D)
    return points[labels] + noise, labels, torch.randn(_V, _D, generator=generator)


def _statistics(x: Tensor, labels: Tensor):
    sums = ClassMoments(_V)
    sums.update(x, labels)
    return epoch_zero.as_statistics(sums)


def _llama() -> nn.Module:
    """A random Llama, in double precision."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=_V,
        hidden_size=_D,
        intermediate_size=_D,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).double().eval()


def _frozen() -> Numbers:
    """Frozen training from every start: losses and right answers before, during and after."""
    model, (x, labels, _) = _llama(), _drawn()
    places = {"train": slice(240), "val": slice(240, 480), "test": slice(480, 600)}
    parts = {split: (x[place], labels[place]) for split, place in places.items()}

    def features(split: str, draw: int, **_):
        x, labels = parts[split]
        size = len(labels) // epoch_zero.DRAWS
        chosen = slice(draw * size, (draw + 1) * size)
        yield x[chosen].double(), labels[chosen]

    def ordinary(split: str, draw: int) -> Tensor:
        return parts[split][1].chunk(epoch_zero.DRAWS)[draw] > 2

    p = SimpleNamespace(
        model=model, anatomy=exits.anatomy(model), features=features, ordinary=ordinary
    )
    s = TrainingSettings(at=1, train=1, val=1, test=1, least=2, batch=40, epochs=2, rates=[0.01])
    f, numbers = frozen_training.Frozen(p, s), {}
    for start in frozen_training.STARTS:
        with probes.Doubles():
            found = frozen_training.measured(f, start=start, rate=0.01)
        name = "".join(letter if letter.isalpha() else "_" for letter in start)
        right = [sum(map(sum, row["right"])) for row in found["history"]]
        numbers[f"seven_{name}"] = [row["loss"] for row in found["history"]] + right
    return numbers | {"seven_chosen": list(found["chosen"].values()), "seven_words": found["words"]}


def _lens() -> list[float]:
    """The affine map that a random Llama's exit learns, in double precision."""
    s = PretrainedSettings(
        model="", precision="float64", length=2, exits=[1], train=1, others=1, val=1, test=1, few=1,
        raw=[1], lens=[1], lens_rows=1, lens_epochs=2, lens_rate=0.01,
    )  # fmt: skip
    none = torch.zeros(0, 2, dtype=torch.int64)
    p = Pretrained(s, _llama(), Text("", none, none, none, None, ""))
    x, labels, _ = _drawn()
    taught = lens.trained(p, x.double(), labels, seed=SEED)
    return [*digest(taught.weight), *digest(taught.bias)]
