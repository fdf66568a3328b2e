"""Skipping finished places gives the logits of the definition, and costs what it says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from eenotes import Confidence, Patience, PerClass, count_macs, load, save
from eenotes_book.models import segmentation, segmentation_training, sparse_convolution, token_vit
from eenotes_book.models.segmentation import SegmentationNetwork, still_active
from eenotes_book.models.segmentation_training import class_weights, exits_loss, masked_loss
from eenotes_book.models.sparse_convolution import Neighbours
from eenotes_book.models.token_vit import TokenViT

BLOCKS, DILATIONS = (1, 2, 1, 2), (1, 1, 2, 3)


def settled(net):
    """Running statistics, as after training, that are no one's default."""
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.fixture(scope="module")
def conv():
    torch.manual_seed(0)
    return settled(SegmentationNetwork(3, channels=8, blocks=BLOCKS, dilations=DILATIONS))


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return settled(TokenViT(3, size=(40, 48), channels=12, layers=(1, 1, 2), heads=3, context=2))


def images(count=2, height=30, width=42, seed=1):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def close(one, other, tolerance=1e-4):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def same(one, other):
    assert torch.equal(one.exit_index, other.exit_index)
    close(one.logits, other.logits)


def plan(share, *, count=2, size=(8, 11), seed=0):
    """Where each place finishes; ``share[j]`` of those left finish at exit j, in patches."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(count, 1, 3, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(rough, size=size, mode="bilinear")[:, 0]
    smooth = smooth + 0.2 * torch.rand(count, *size, generator=generator)
    index = torch.full((count, *size), len(share))
    for j, part in enumerate(share):
        left = index == len(share)
        if left.any():
            limit = smooth[left].quantile(part)
            index[left & (smooth <= limit if part >= 1 else smooth < limit)] = j
    return index


# --- the conv network


shares = st.lists(st.floats(0, 1), min_size=3, max_size=3)


@given(shares, st.integers(0, 10), st.sampled_from(["sparse", "dense", "auto"]))
def test_skipping_equals_computing_everything_and_masking(conv, share, seed, mode):
    x, index = images(), plan(share, seed=seed)
    same(
        conv.segment(x, None, exit_index=index, mode=mode),
        segmentation.dense_then_mask(conv, x, None, exit_index=index),
    )


@pytest.mark.parametrize("mode", ["sparse", "dense", "auto"])
def test_a_rule_decides_place_by_place(conv, mode):
    x = images()
    first = torch.stack(conv(x))[0].softmax(1).amax(1)
    rule = Confidence(first.median().item())
    out = conv.segment(x, rule, mode=mode)
    assert torch.equal(out.exit_index == 0, first > rule.thresholds)
    same(out, segmentation.dense_then_mask(conv, x, rule))


@pytest.mark.parametrize("name", ["conv", "vit"])
def test_without_early_finishers_it_is_the_plain_network(name, request):
    """Also at another size than the transformer's."""
    net, x = request.getfixturevalue(name), images()
    modes = [{"mode": "sparse"}, {"mode": "dense"}] if name == "conv" else [{}]
    for mode in modes:
        out = net.segment(x, Confidence(1.0), **mode)
        close(out.logits, net(x))
        assert (out.exit_index == net.num_exits - 1).all()
        assert out.macs[-1] == count_macs(net, x).cumulative[-1]


def test_a_finished_place_keeps_its_logits(conv):
    x, index = images(), plan([0.3, 0.3, 0.3])
    out = conv.segment(x, None, exit_index=index)
    for j in range(4):
        done = (out.exit_index == j)[:, None].expand_as(out.logits[0])
        for later in range(j + 1, 4):
            assert torch.equal(out.logits[later][done], out.logits[j][done])
    first = (out.exit_index == 0)[:, None].expand_as(out.logits[0])
    close(out.logits[-1][first], conv(x)[0][first])


def test_all_finished_at_once_cost_one_stage(conv):
    x = images()
    costs, out = count_macs(conv, x), conv.segment(x, Confidence(0.0))
    assert (out.exit_index == 0).all()
    assert out.macs.tolist() == [costs.stages[0] + costs.exits[0]] * 4
    assert out.spent == out.macs[-1]
    assert torch.equal(out.logits[3], out.logits[0])


def test_neighbours_by_hand():
    """A row of five places, the middle one and its right neighbour active; κ = 0 makes the filling
    a plain average.
    """
    n = Neighbours(torch.tensor([2, 3]), (1, 1, 5), 0.0)
    assert n.halo.tolist() == [1, 4]
    # rows: place 2, place 3, place 1, place 4, outside
    assert n.neighbours[0].tolist() == [4, 4, 4, 2, 0, 1, 4, 4, 4]
    assert n.neighbours[1].tolist() == [4, 4, 4, 0, 1, 3, 4, 4, 4]
    assert n.filled(torch.tensor([[10.0], [20.0]])).tolist() == [[10.0], [20.0]]


def test_neighbours_of_a_dilated_convolution_by_hand():
    """A row of six places, the third one active; two steps to either side lie the first and the
    fifth.
    """
    n = Neighbours(torch.tensor([2]), (1, 1, 6), 1.0, 2)
    assert n.halo.tolist() == [0, 4]
    assert n.neighbours[0].tolist() == [3, 3, 3, 1, 0, 2, 3, 3, 3]
    assert n.filled(torch.tensor([[10.0]])).tolist() == [[10.0], [10.0]]


def test_a_stage_begins_with_the_features_that_finished_places_had():
    """Stages of one block: what an active place's first convolution reads is the plain network's,
    at the exit where its neighbours finished.
    """
    torch.manual_seed(0)
    net = settled(SegmentationNetwork(3, channels=4, blocks=(1, 1, 1)))
    x, index = images(1), torch.zeros(1, 8, 11, dtype=torch.int64)
    index[0, 4, 5] = 2  # alone behind the first exit
    first = net.stages[0](x)
    block = net.parts(1)[0][0]
    hidden = torch.relu(block.conv1(first))[:, :, 4:5, 5:6]
    # its neighbours' hidden values are filled in from it, the only active place
    weight, bias = block.conv2.folded()
    second = torch.nn.functional.conv2d(hidden.expand(1, 4, 3, 3), weight, bias)
    expected = net.parts(1)[1](torch.relu(second + first[:, :, 4:5, 5:6]))
    out = net.segment(x, None, exit_index=index, mode="sparse")
    close(out.logits[1][:, :, 4:5, 5:6], expected)


def test_filling_weighs_by_distance():
    """The corner (0, 0) of three by three, with (0, 1) at distance 1 and (1, 1) at √2 active."""
    n = Neighbours(torch.tensor([1, 4]), (1, 3, 3), 1.0)
    near, far = torch.exp(torch.tensor([-1.0, -2.0]))
    corner = n.filled(torch.tensor([[1.0], [0.0]]))[n.halo.tolist().index(0)]
    assert corner.item() == pytest.approx((near / (near + far)).item())


def test_images_of_a_batch_do_not_touch(conv):
    x, index = images(3), plan([0.5, 0.5, 0.5], count=3)
    together = conv.segment(x, None, exit_index=index, mode="sparse")
    for b in range(3):
        alone = conv.segment(x[b : b + 1], None, exit_index=index[b : b + 1], mode="sparse")
        close(together.logits[-1][b], alone.logits[-1][0])


def test_a_rule_with_memory_follows_its_places(conv):
    x = images()
    out = conv.segment(x, Patience(1), mode="sparse")
    predicted = [z.argmax(1) for z in conv(x)]
    assert torch.equal(out.exit_index == 1, predicted[0] == predicted[1])


def test_macs_are_those_of_the_counter(conv):
    x, index = images(), plan([0.4, 0.4, 0.4])
    with FlopCounterMode(display=False) as counter:
        out = conv.segment(x, None, exit_index=index, mode="sparse")
    counted = counter.get_total_flops() / (2 * len(x))  # the counter does not see the filling
    assert counted < out.macs[-1] < 1.1 * counted
    filled = 0
    for j in (1, 2, 3):
        active = (index.flatten() >= j).nonzero().squeeze(1)
        places = Neighbours(active, (2, 8, 11), 1.0, DILATIONS[j])
        filled += (2 * BLOCKS[j] - 1) * 9 * 8 * len(places.halo) / 2
    assert counted + filled == pytest.approx(out.macs[-1].item())
    assert out.spent == out.macs[-1]
    dense = conv.segment(x, None, exit_index=index, mode="dense")
    assert dense.spent > dense.macs[-1] == out.macs[-1]


def test_places_are_not_computed_when_they_are_finished(conv, monkeypatch):
    """Rows that go into the matrix products: the active places, and no other."""
    counted, plain = [], sparse_convolution.affine

    def affine(rows, *args):
        counted.append(len(rows))
        return plain(rows, *args)

    monkeypatch.setattr(sparse_convolution, "affine", affine)
    index = plan([0.5, 0.5, 0.5])
    conv.segment(images(), None, exit_index=index, mode="sparse")
    left = [int((index > j).sum()) for j in range(3)]
    assert counted == [left[0]] * 4 + [left[1]] * 2 + [left[2]] * 4


def test_a_saved_network_skips_the_same_places(conv, tmp_path):
    path = tmp_path / "net"
    save(conv, path)
    options = {"channels": 8, "blocks": BLOCKS, "dilations": DILATIONS}
    again = load(path, SegmentationNetwork(3, **options))
    one, other = (net.segment(images(), Confidence(0.4)) for net in (conv, again))
    assert all(map(torch.equal, one.logits, other.logits))
    with pytest.raises(ValueError, match="'sharpness': 1.0.* given is .*'sharpness': 2.0"):
        load(path, SegmentationNetwork(3, **options, sharpness=2.0))


def test_full_resolution_labels(conv):
    out = conv.segment(images(), Confidence(0.6))
    assert out.labels((30, 42)).shape == (2, 30, 42)
    assert out.labels((8, 11), exit_index=0).equal(out.logits[0].argmax(1))


# --- the transformer


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2), st.integers(0, 10))
def test_a_shorter_sequence_equals_a_hidden_one(vit, share, seed):
    x, index = images(2, 40, 48), plan(share, size=(5, 6), seed=seed)
    same(
        vit.segment(x, None, exit_index=index),
        token_vit.dense_then_mask(vit, x, None, exit_index=index),
    )


def test_tokens_leave_by_a_rule(vit):
    x = images(2, 40, 48)
    confidence = torch.stack(vit(x))[:2].softmax(2).amax(2).flatten(1)
    median = confidence.quantile(0.5, dim=1).clamp_min(0.34)
    rule = PerClass(median[:, None].expand(2, 3))
    out = vit.segment(x, rule)
    assert len(out.exit_index.unique()) == 3
    same(out, token_vit.dense_then_mask(vit, x, rule))


def test_macs_of_the_transformer_are_those_of_the_counter(vit):
    x, index = images(2, 40, 48), plan([0.4, 0.4], size=(5, 6))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        out = vit.segment(x, None, exit_index=index)
    assert out.macs[-1] == counter.get_total_flops() / (2 * len(x))
    assert out.macs[-1] < count_macs(vit, x).cumulative[-1]


# --- training


@pytest.mark.parametrize(
    ("weights", "first", "second"),
    [(None, 2 / 3, 1 / 3), ([1.0, 1.0, 1.0], 2 / 3, 1 / 3), ([1.0, 4.0, 9.0], 2 / 6, 4 / 6)],
)
def test_the_loss_of_a_cell_is_the_weighted_average_over_its_pixels(weights, first, second):
    """One place of four pixels: two of class 0, one of class 1, one ignored."""
    logits = torch.tensor([0.2, 0.5, 0.3]).log().view(1, 3, 1, 1)
    labels = torch.tensor([[[0, 0], [1, 255]]], dtype=torch.uint8)
    weights = None if weights is None else torch.tensor(weights)
    batch = torch.zeros(1, 3, 2, 2), labels
    loss = exits_loss(lambda x: [logits, logits], batch, weights=weights)
    expected = -(first * torch.tensor(0.2).log() + second * torch.tensor(0.5).log())
    torch.testing.assert_close(loss, expected)


def test_the_loss_mirrors_image_and_labels_together():
    x = torch.arange(6.0).view(1, 1, 1, 6).expand(16, 3, 1, 6)
    labels = torch.arange(6).view(1, 1, 6).expand(16, 1, 6).to(torch.uint8)

    def sure(images):
        marked = torch.nn.functional.one_hot(images[:, 0].long(), 6)
        return [100 * marked.permute(0, 3, 1, 2).float()]

    torch.manual_seed(0)
    assert exits_loss(sure, (x, labels)) < 1e-6


def test_training_varies_image_and_labels_together():
    """Stripes in the colours of their classes, 1 to 6: away from borders a pixel shows the colour
    of its class.
    """
    labels = (torch.arange(72) // 12).expand(64, 72, 72)
    torch.manual_seed(0)
    images, moved = segmentation_training.varied(
        ((labels[:, None] + 1.0).expand(-1, 3, -1, -1), labels.to(torch.uint8))
    )
    assert images.shape == (64, 3, 48, 48) and moved.shape == (64, 48, 48)
    assert moved.unique().tolist() == list(range(6))
    most, least = (
        sign * torch.nn.functional.max_pool2d(sign * moved[:, None].float(), 5, 1, 2)
        for sign in (1, -1)
    )
    inner = (most == least).expand_as(images).clone()
    inner[..., [0, 1, -2, -1]] = False  # what lies beyond is not seen
    assert inner.float().mean() > 0.5
    close(images[inner], (moved[:, None].expand_as(images)[inner] + 1).float())
    kinds = torch.tensor([len(part.unique()) for part in moved])
    assert kinds.min() >= 3 and kinds.max() == 6  # between 0.44 of the image and all of it
    mirrored = moved[:, 0, 0] > moved[:, 0, -1]
    assert 0.2 < mirrored.float().mean() < 0.8


@given(st.lists(st.floats(0.2, 1), min_size=2, max_size=2))
@pytest.mark.parametrize("name", ["conv", "vit"])
def test_training_sees_what_masked_inference_sees(name, conv, vit, stop):
    """Each image has its threshold; later exits' logits of finished places do not count."""
    net, x, stop = {"conv": conv, "vit": vit}[name], images(2, 40, 48), torch.tensor(stop)
    defined = {"conv": segmentation, "vit": token_vit}[name].dense_then_mask
    with torch.no_grad():
        logits = net(x, stop=stop)
    for i, threshold in enumerate(stop.tolist()):
        out = defined(net, x[i : i + 1], Confidence(threshold))
        for j, active in enumerate(still_active([z[i : i + 1] for z in logits], stop[i : i + 1])):
            # at the last exit all places leave
            assert torch.equal(active, out.exit_index > j) or j == net.num_exits - 1
            active_there = (out.exit_index >= j)[:, None].expand_as(out.logits[j])
            close(logits[j][i : i + 1][active_there], out.logits[j][active_there])


@pytest.mark.parametrize("name", ["conv", "vit"])
def test_a_network_in_which_nothing_stops_is_the_plain_one(name, request):
    net, x = request.getfixturevalue(name), images()
    with torch.no_grad():
        for one, other in zip(net(x, stop=torch.ones(2)), net(x), strict=True):
            close(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_masked_training_in_half_precision_stays_finite(dtype):
    """Also where whole regions are finished, and their fillings have nothing to be filled from."""
    torch.manual_seed(0)
    net = SegmentationNetwork(3, channels=8, blocks=(1, 1, 1)).train()
    labels = torch.zeros(4, 30, 42, dtype=torch.uint8)
    with torch.autocast("cpu", dtype=dtype):
        stopped = net(images(4), stop=torch.tensor([0.0, 0.4, 0.5, 1.0]))
        loss = masked_loss(net, (images(4), labels))
    assert all(z.isfinite().all() for z in stopped)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_a_finished_place_counts_in_no_later_loss():
    """64 images of one place: exit 1 is certain, exit 2 gives the right class one half."""
    first, second = (torch.tensor([z, 0.0]).view(1, 2, 1, 1) for z in (20.0, 0.0))
    stops = []

    def model(images, *, stop):
        stops.append(stop)
        return [z.expand(len(images), 2, 1, 1) for z in (first, second)]

    torch.manual_seed(0)
    loss = masked_loss(model, (torch.zeros(64, 3, 1, 1), torch.zeros(64, 1, 1, dtype=torch.uint8)))
    plain = stops[0] == 1
    assert 0.3 < plain.double().mean() < 0.7
    assert stops[0].min() >= 0.85 and stops[0][~plain].max() < 1
    torch.testing.assert_close(
        loss, torch.tensor(2.0).log() * plain.float().mean() / 2, rtol=1e-5, atol=1e-8
    )


def test_without_a_sure_exit_masked_training_is_plain_training(monkeypatch):
    monkeypatch.setattr(segmentation_training, "varied", lambda batch: batch)
    logits = torch.randn(2, 8, 3, 2, 2, generator=torch.Generator().manual_seed(0)) / 10
    batch = torch.zeros(8, 3, 4, 4), torch.zeros(8, 4, 4, dtype=torch.uint8)
    torch.testing.assert_close(
        masked_loss(lambda x, stop: list(logits), batch), exits_loss(lambda x: list(logits), batch)
    )


def test_class_weights_are_inverse_fourth_roots_of_shares():
    """Shares 16/17 and 1/17: weights as 1 to 2, on average 1 per pixel; class 2 never occurs."""
    labels = torch.tensor([0] * 16 + [1] + [255] * 4 + [-1] * 3)
    expected = torch.tensor([1.0, 2.0, 2.0]) / (16 / 17 * 1 + 1 / 17 * 2)
    torch.testing.assert_close(class_weights([labels], num_classes=3), expected)
    torch.testing.assert_close(class_weights(labels.split(5), num_classes=3), expected)
    with pytest.raises(ValueError, match="no pixel has a label"):
        class_weights([torch.full((4,), 255, dtype=torch.uint8)], num_classes=3)


# --- bad input


@pytest.mark.parametrize("name", ["conv", "vit"])
def test_bad_input(name, request):
    net, x = request.getfixturevalue(name), images(1, 40, 48)
    sure, places = Confidence(0.5), net(x)[0].shape[2:]
    plans = [torch.full((1, *places), number) for number in (4, -1)] + [torch.zeros(1, *places)]
    nan, first = x * torch.nan, torch.zeros(1, *places, dtype=torch.int64)
    for wrong, rule, exit_index, message in [
        (x[:0], sure, None, "empty"),
        (x, None, None, "either a rule or"),
        (x, sure, first, "either a rule or"),
        (x, None, torch.zeros(1, 2, 2), "one number per place"),
        *((x, None, bad, r"whole numbers in 0\.\.[23]") for bad in plans),
        (nan, None, first, "NaN"),
        (nan, sure, None, "NaN"),
        (x[0], sure, None, r"\(B, 3, H, W\)"),
        (x[:, :1], sure, None, r"\(B, 3, H, W\)"),
        (x, PerClass(torch.full((7,), 0.6)), None, "7 classes"),
        (x, Confidence([0.5] * 5), None, "5 thresholds"),
    ]:
        with pytest.raises(ValueError, match=message):
            net.segment(wrong, rule, exit_index=exit_index)
    net.train()
    with pytest.raises(ValueError, match="training mode"):
        net.segment(x, sure)
    net.eval()


CONV = ({"blocks": (2,)}, {"blocks": (1, 0)}, {"channels": 7})
VIT = ({"layers": (2,)}, {"layers": (1, 0)}, {"channels": 10}, {"context": -1}, {"heads": 0})


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        *((SegmentationNetwork, options, "two stages") for options in CONV),
        *(
            (SegmentationNetwork, {"dilations": d}, "dilation of at")
            for d in ((1, 1), (1, 1, 1, 0))
        ),
        *((SegmentationNetwork, {"sharpness": k}, "sharpness") for k in (-1.0, 20.0, torch.nan)),
        *((TokenViT, options | {"size": (16, 16)}, "two stages") for options in VIT),
    ],
)
def test_bad_networks(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(3, **options)


def test_an_unknown_mode(conv):
    with pytest.raises(ValueError, match="mode="):
        conv.segment(images(), Confidence(0.5), mode="fast")
