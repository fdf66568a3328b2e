"""The chapters in miniature: the real networks and shapes of a scale, two steps of training, and a
handful of stand-in samples.
"""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import TensorDataset

from eenotes import collect
from eenotes_book import clustering, deep_clustering, language_models, networks, scale
from eenotes_book.ch02_e2cm import experiment as e2cm_experiment
from eenotes_book.ch03_pruning import experiment as pruning_experiment
from eenotes_book.ch04_cbt import bench as cbt_bench
from eenotes_book.ch05_eeprune.bench import Bench as RaceBench
from eenotes_book.ch05_eeprune.harness import train_on
from eenotes_book.ch06_language import before_training
from eenotes_book.ch06_language import experiment as language_experiment
from eenotes_book.ch08_open import networks as open_networks
from eenotes_book.ch08_open import streets
from eenotes_book.data import pretrained_language, scenes, text, vision
from eenotes_book.models.segmentation import SegmentationNetwork
from eenotes_book.models.token_vit import TokenViT

SHAPES = {
    "MNIST": (1, 28, 28), "FashionMNIST": (1, 28, 28), "KMNIST": (1, 28, 28),
    "CIFAR10": (3, 32, 32), "CIFAR100": (3, 32, 32),
}  # fmt: skip
CLASSES = {"CIFAR100": 100, "CamVid": 11, "Cityscapes": 19}
VOCABULARY = 64  # of stand-in text; the whole vocabulary only on the meta device

# What is counted in samples, epochs or steps: two batches of ten, once.
FEW = {
    "train": 20, "val": 20, "test": 20, "epochs": 1, "batch_size": 10, "steps": 2, "rounds": 1,
    "samples": 20, "tune_batch": 10, "watched": 10, "budget": 1, "statistics": 8, "tune": 4,
    "score_epochs": 1, "prompts": 1,
}  # fmt: skip


def few(section):
    """The settings with few samples and one epoch; what shapes a network stays."""
    changes = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if field.name in FEW and isinstance(value, int):
            changes[field.name] = FEW[field.name]
        elif field.name == "phases":
            changes[field.name] = [1 for _ in value]
        elif dataclasses.is_dataclass(value):
            changes[field.name] = few(value)
        elif isinstance(value, dict) and all(map(dataclasses.is_dataclass, value.values())):
            changes[field.name] = {name: few(part) for name, part in value.items()}
    return dataclasses.replace(section, **changes)


def replace_data(monkeypatch, cache):
    """Noise in the shapes of the data sets, and an empty cache."""
    torch.manual_seed(0)
    monkeypatch.setenv("EENOTES_CACHE", str(cache))
    monkeypatch.setattr(vision, "load", images)
    monkeypatch.setattr(cbt_bench.scenes, "load", streets_of)


def images(name, *, train=20, val=20, test=20, seed=0):
    count = CLASSES.get(name, 10)
    splits = [
        TensorDataset(torch.randn(n, *SHAPES[name]), torch.arange(n) % count)
        for n in (train, val, test)
    ]
    plain = torch.zeros(SHAPES[name][0])
    return vision.Vision(name, *splits, tuple(map(str, range(count))), plain, plain + 1)


def streets_of(name, **_):
    """Four scenes; a transformer's places are fixed to the size of the data set."""
    size = scenes._SIZES[name]
    count = CLASSES[name]
    part = TensorDataset(
        torch.randn(4, 3, *size), torch.randint(0, count, (4, *size), dtype=torch.uint8)
    )
    names = tuple(map(str, range(count)))
    return scenes.Scenes(name, part, part, part, names, torch.zeros(3), torch.ones(3))


def words(s):
    """Eight rows a split, of the settings' length."""
    splits = (torch.randint(0, VOCABULARY, (8, s.length)) for _ in range(3))
    tokenizer = SimpleNamespace(get_vocab_size=lambda: VOCABULARY)
    return text.Text(s.data, *splits, tokenizer, "stand-in")


def shapes(net, x):
    """Those of the logits, where the network is."""
    with torch.no_grad():
        return [tuple(z.shape) for z in net.eval()(x.to(next(net.parameters()).device))]


# --- the chapters


def leaving(s):
    data = images(s.data)
    _, net = networks.resnet_with_exits(data, s)
    assert len(networks.train_or_load(net, data, s)) == 1
    logits, _ = collect(net.eval(), [data.test.tensors])
    assert logits.shape == (len(s.exits) + 1, 20, len(data.classes))


def class_means(s):
    for name, part in s.backbones.items():
        b = e2cm_experiment.bench(name, part)
        for net in (b.class_means, b.whitened, *e2cm_experiment.one_epoch(b).values()):
            assert net.num_exits == len(b.stages)
            assert shapes(net, b.data.test.tensors[0]) == [(20, 10)] * net.num_exits
    for part in s.clustering.values():
        clusters(part)


def clusters(s):
    """Two steps put all points into one cluster, so the exits get other labels."""
    fields = [f.name for f in dataclasses.fields(deep_clustering.Recipe) if hasattr(s, f.name)]
    recipe = deep_clustering.Recipe(**{name: getattr(s, name) for name in fields})
    x, labels = torch.rand(20, 784).to(scale.device()), torch.arange(20) % 10
    found = deep_clustering.fit(x, recipe, num_clusters=10)
    net = clustering.with_exits(
        found.encoder, found.centroids, TensorDataset(x, labels.to(x.device))
    )
    assert shapes(net, x) == [(20, 10)] * len(s.widths)


def pruning(s):
    b = pruning_experiment.bench(s)
    for approach in (pruning_experiment.TOGETHER, pruning_experiment.CONTROL):
        net, iterations = pruning_experiment.by_approach(b, approach)
        assert len(iterations) >= 1 and net.num_exits == len(s.exits) + 1


def segmentation(s):
    s = dataclasses.replace(
        s, **{k: dataclasses.replace(getattr(s, k), batch_size=2) for k in ("conv", "vit")}
    )
    real = scenes._SIZES[s.data]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scenes._SIZES, s.data, (64, 128))
        data = cbt_bench.data_of(s)
        for make in (cbt_bench.conv_bench, cbt_bench.vit_bench):
            b = make(data, s)
            assert next(iter(b.answers(data.test)))[0][0].shape[1] == len(data.classes)
    with torch.device("meta"):  # at the real size
        count, x = CLASSES[s.data], torch.zeros(2, 3, *real)
        conv = SegmentationNetwork(count, channels=s.conv.channels, blocks=s.conv.blocks)
        vit = dataclasses.asdict(s.vit)
        vit = TokenViT(count, size=real, **{k: vit[k] for k in ("channels", "layers", "heads")})
        for net in (conv, vit):
            assert {len(z.shape) for z in net(x)} == {4} and net(x)[-1].shape[:2] == (2, count)


def races(s):
    for name in s.names:
        b = RaceBench(name, s.race(name), seed=0)
        net = b.recipe(1, exits=True).train(b.data.train, seed=0)
        assert shapes(net, b.data.test.tensors[0]) == [(20, len(b.data.classes))] * 4
        found = train_on(b, torch.arange(10))
        assert (found["kept"], found["seen"][-1]) == (10, 20)
        assert b.recipe(1, proxy=True).network(0).num_exits == 1


def language(s):
    model_of(s)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained_language, "load", lambda *_, **__: (published(s), None))
        # the published model is large: short rows
        data = words(dataclasses.replace(s, length=16) if s.hub else s)
        lm = language_models.trained(s, data=data)
    measured = before_training.measured_exit(lm)
    assert set(before_training.epoch_zero(measured)) >= {"random", "class mean"}
    s = dataclasses.replace(s, batch_size=2)
    lm = dataclasses.replace(lm, settings=s)
    for freeze in (True, False):
        for rows in language_experiment.histories(lm, measured, freeze=freeze).values():
            assert [row["epoch"] for row in rows] == [0, 1]


def model_of(s):
    """The model with its whole vocabulary, on rows of the settings' length."""
    tokenizer = SimpleNamespace(get_vocab_size=lambda: s.vocabulary)
    with torch.device("meta"):
        rows = torch.zeros(2, s.length, dtype=torch.int64)
        data = text.Text(s.data, rows, rows, rows, tokenizer, "stand-in")
        model = language_models.untrained(data, s)
        model.set_attn_implementation("eager")  # the usual one looks at numbers before 5.23
        assert model(input_ids=rows).logits.shape == (2, s.length, s.vocabulary)


def published(s):
    """OPT-125m but for its vocabulary and its weights."""
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(vocab_size=VOCABULARY)
    assert (config.hidden_size, config.num_hidden_layers) == (s.width, s.layers)
    return OPTForCausalLM(config)


def open_problems(s):
    data = open_networks.load(s)
    assert open_networks.trained(data, s).net.num_exits == 4
    v = streets.senses(dataclasses.replace(s.streets, train=4, val=2, test=2, batch_size=2))
    assert v.seen("test")[0]["depth"].shape[2] == len(streets.CLASSES)
    clusters(s.clusters)
    model_of(s.text)
    lm = language_models.trained(s.text, data=words(s.text))
    assert before_training.measured_exit(lm).found.counts.sum() > 0


CHAPTERS = {
    "ch01_leaving": leaving,
    "ch02_e2cm": class_means,
    "ch03_pruning": pruning,
    "ch04_cbt": segmentation,
    "ch05_eeprune": races,
    "ch06_language": language,
    "ch08_open": open_problems,
}
