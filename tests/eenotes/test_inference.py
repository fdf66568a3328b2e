"""predict stops, compacts the batch, and agrees with simulate and with one sample at a time."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eenotes import (
    ClassMeanConfidence,
    Confidence,
    EarlyExitNetwork,
    Entropy,
    Patience,
    PerClass,
    collect,
    predict,
    predict_stream,
    simulate,
)
from eenotes.rules import Decision

# (J, N, K) = (3, 4, 2): sample i is sure of class 0 from exit i on; the last is never sure, and
# says class 1 at the end.
SURE, UNSURE = [4.0, 0.0], [0.2, 0.0]
LOGITS = torch.tensor(
    [[SURE, UNSURE, UNSURE, UNSURE], [SURE, SURE, UNSURE, UNSURE], [SURE, SURE, SURE, [0.0, 0.2]]]
)


def both(net, x, logits, rule):
    """The outcomes of `predict` and `simulate`, one after the other."""
    yield predict(net, x, rule)
    yield simulate(logits, rule)


def outcomes_equal(a, b):
    assert torch.equal(a.prediction, b.prediction)
    assert torch.equal(a.exit_index, b.exit_index)
    assert torch.allclose(a.confidence, b.confidence, atol=1e-5)


# --- it really stops


def test_where_samples_exit_by_hand(table_net, rows):
    outcome = predict(table_net(LOGITS), rows(4), Confidence(0.9))
    assert outcome.exit_index.tolist() == [0, 1, 2, 2]
    assert outcome.prediction.tolist() == [0, 0, 0, 1]
    sure, unsure = LOGITS[0, :2].softmax(1)[:, 0].tolist()
    assert outcome.confidence.tolist() == pytest.approx([sure, sure, sure, unsure])
    assert outcome.prediction.dtype == outcome.exit_index.dtype == torch.int64
    assert outcome.confidence.dtype == torch.float32


class Refused(nn.Module):
    def forward(self, x):
        raise AssertionError("a closed exit was run")


@pytest.mark.parametrize(
    "rule",
    [
        Confidence([0.9, 1.0]),
        Entropy([0.3, 0.0]),
        PerClass(torch.tensor([[0.9, 0.9], [1.0, 1.0]])),
        ClassMeanConfidence([0.9, 1.0], [None, None]),
    ],
)
def test_a_closed_exit_is_not_run(table_net, rows, rule):
    net = table_net(LOGITS)
    net.exits[1] = Refused().eval()
    for outcome in (
        *both(net, rows(4), LOGITS, rule),
        predict_stream(net, rows(4).split(3), rule, batch_size=2),
    ):
        assert outcome.exit_index.tolist() == [0, 2, 2, 2]
        assert outcome.prediction.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("thresholds", "exit_index", "seen"),
    [
        (0.9, [0, 1, 2, 2], [[4], [3], [2]]),  # a stage sees only the samples that are left
        (0.0, [0, 0, 0, 0], [[4], [], []]),  # nothing runs after the last has exited
        (1.0, [2, 2, 2, 2], [[4], [4], [4]]),
        ([1.0, 0.9], [1, 1, 2, 2], [[4], [4], [2]]),  # one exit may be closed
    ],
)
def test_it_really_stops(table_net, rows, unchanged, thresholds, exit_index, seen):
    net, x = table_net(LOGITS), rows(4)
    with unchanged(net):
        assert predict(net, x, Confidence(thresholds)).exit_index.tolist() == exit_index
    assert net.seen == seen
    assert torch.equal(x, rows(4))


def test_patience_travels_with_its_sample(table_net, rows):
    """Samples that exit are taken out of the state, too: its rows then belong to others."""
    predicted = torch.tensor([[0, 1, 0], [0, 0, 1], [2, 0, 1], [1, 0, 0]])  # 4 exits × 3 samples
    net = table_net(nn.functional.one_hot(predicted, 3).float())
    outcome = predict(net, rows(3), Patience(1))
    assert outcome.exit_index.tolist() == [1, 2, 2]
    assert outcome.prediction.tolist() == [0, 0, 1]
    assert net.seen == [[3], [3], [2], []]


def test_a_rule_of_ones_own_with_a_state(table_net, rows):
    """Sample k exits at exit k; the state counts down to 0."""

    class Countdown:
        def check(self, num_exits):
            pass

        def __call__(self, j, logits, state=None):
            state = torch.arange(len(logits)) if state is None else state - 1
            return Decision(logits.argmax(1), logits.softmax(1).amax(1), state == 0, state)

    for outcome in both(table_net(LOGITS), rows(4), LOGITS, Countdown()):
        assert outcome.exit_index.tolist() == [0, 1, 2, 2]


# --- the same outcome, however it is computed


@st.composite
def rules(draw, num_exits, classes):
    unit, early = st.floats(0, 1), num_exits - 1
    per_class = st.lists(unit, min_size=classes, max_size=classes)
    thresholds = st.one_of(unit, st.lists(unit, min_size=early, max_size=early))
    scale = st.one_of(st.none(), st.just(torch.arange(1.0, classes + 1)))
    scales = st.lists(scale, min_size=num_exits, max_size=num_exits)
    kinds = [
        st.builds(Confidence, thresholds),
        st.builds(ClassMeanConfidence, thresholds, scales),
        st.builds(Entropy, thresholds),
        st.builds(Patience, st.integers(1, 3)),
        st.builds(PerClass, per_class),
    ]
    if early:
        table = st.lists(per_class, min_size=early, max_size=early)
        kinds.append(st.builds(PerClass, table))
    return draw(st.one_of(kinds))


@st.composite
def cases(draw):
    """(logits (J, N, K), a rule that fits)"""
    sizes = num_exits, _, classes = [draw(st.integers(*ends)) for ends in ((1, 4), (1, 7), (2, 4))]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    scale = draw(st.sampled_from([0.5, 2.0, 8.0]))
    return scale * torch.randn(*sizes, generator=generator), draw(rules(num_exits, classes))


@given(cases())
def test_predict_simulate_and_one_at_a_time_agree(table_net, rows, case):
    logits, rule = case
    count = logits.shape[1]
    net, expected = table_net(logits), simulate(logits, rule)
    outcomes_equal(predict(net, rows(count), rule), expected)
    outcomes_equal(simulate(list(logits), rule), expected)
    for wait in (1, 3):
        stream = rows(count).split(2)
        outcomes_equal(predict_stream(net, stream, rule, batch_size=wait), expected)
    for i in range(count):
        alone = predict(net, rows(count)[i : i + 1], rule)
        assert alone.prediction == expected.prediction[i]
        assert alone.exit_index == expected.exit_index[i]
        assert torch.allclose(alone.confidence, expected.confidence[i], atol=1e-5)


@given(cases())
def test_an_outcome_is_the_decision_at_the_first_exit_taken(case):
    """The definition, sample by sample, in a plain loop."""
    logits, rule = case
    outcome = simulate(logits, rule)
    for i in range(logits.shape[1]):
        state = None
        for j in range(len(logits)):
            decision = rule(j, logits[j, i : i + 1], state)
            state = decision.state
            if decision.leave or j == len(logits) - 1:
                break
        assert (outcome.exit_index[i], outcome.prediction[i]) == (j, decision.prediction)


# --- the edges


EMPTY = [Confidence([]), Entropy([])]


@pytest.mark.parametrize(
    "rule", [Confidence(0.5), Entropy(0.1), Patience(1), PerClass([0.5, 0.5]), *EMPTY]
)
def test_a_network_without_early_exits(table_net, rows, rule):
    for outcome in both(table_net(LOGITS[:1]), rows(4), LOGITS[:1], rule):
        assert outcome.exit_index.tolist() == outcome.prediction.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("rule", [Confidence([0.5]), Entropy([0.5] * 3), PerClass([[0.5, 0.5]])])
def test_thresholds_of_the_wrong_length(table_net, rows, rule):
    with pytest.raises(ValueError, match="early exits"):
        predict(table_net(LOGITS), rows(4), rule)
    with pytest.raises(ValueError, match="early exits"):
        simulate(LOGITS, rule)


class MovesBatch(nn.Module):
    def forward(self, x):
        return x.repeat(2, 1)


HALF = Confidence(0.5)
PIXELS = [nn.Identity(), nn.Conv2d(1, 2, 1)], [nn.Conv2d(1, 2, 1)]
MOVES = [nn.Identity(), MovesBatch(), nn.Identity()], [nn.Linear(2, 2), nn.Linear(2, 2)]
UNEQUAL = [torch.zeros(3, 2), torch.zeros(4, 2)]


@pytest.mark.parametrize(
    ("way", "message"),
    [
        (lambda net, x: predict(net, x[:0], HALF), "empty"),
        (lambda net, x: simulate(LOGITS[:, :0], HALF), "empty"),
        (lambda net, x: collect(net, []), "no batch"),
        (lambda net, x: simulate([], HALF), "same samples"),
        (lambda net, x: simulate(UNEQUAL, HALF), "same samples"),
        (lambda net, x: collect(net, [(x, torch.zeros(4, 1))]), r"one label per sample, \(B,\)"),
        (lambda net, x: collect(net, [(x, torch.zeros(3))]), r"one label per sample, \(B,\)"),
        (lambda net, x: predict(net, x.to("meta"), HALF), r"devices: \['cpu', 'meta'\]"),
        (lambda net, x: predict(net.train(), x, HALF), "training mode"),
        (lambda net, x: collect(net.train(), [(x, torch.zeros(4))]), "training mode"),
        (
            lambda net, x: predict(EarlyExitNetwork(*PIXELS).eval(), torch.zeros(3, 1, 5, 5), HALF),
            r"exit 0 gave logits \(3, 2, 5, 5\).*segment\(\)",
        ),
        (
            lambda net, x: predict(
                EarlyExitNetwork(*MOVES).eval(), torch.zeros(3, 2), Confidence(1)
            ),
            "stage 1 turned a batch of 3 into 6",
        ),
    ],
)
def test_bad_input(table_net, rows, way, message):
    net = table_net(LOGITS)
    with pytest.raises(ValueError, match=message):
        way(net, rows(4))
    assert net.seen == [[], [], []]


def test_training_mode_is_refused_wherever_it_hides(table_net, rows):
    net = table_net(LOGITS)
    net.stages[1].train()
    with pytest.raises(ValueError, match="training mode"):
        predict(net, rows(4), HALF)


@pytest.mark.parametrize("rule", [Confidence(0.9), Entropy(0.1), Patience(1), PerClass([0.9, 0.9])])
def test_nan_logits(table_net, rows, rule):
    logits = LOGITS.clone()
    logits[1, 3] = float("nan")
    net = table_net(logits)
    ways = [partial(predict, net, rows(4), rule), partial(simulate, logits, rule)]
    for size in (1, 3, 4):
        ways.append(partial(predict_stream, net, [rows(4)], rule, batch_size=size))
    for way in ways:
        with pytest.raises(ValueError, match="exit 1 gave NaN"):
            way()


@pytest.mark.parametrize("rule", [Confidence(0.6), Entropy(0.9), PerClass([0.6] * 3)])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_changes_no_decision(kind, rule, table_net, rows):
    """The cached logits are float32; with entropies in bfloat16 some decisions would differ."""
    logits = torch.randn(3, 500, 3, generator=torch.Generator().manual_seed(0)).to(kind)
    # the numbers of the rows stay whole: they are not given in this precision
    net = table_net(logits).to(kind)
    cached = simulate(collect(net, [(rows(500), torch.zeros(500))])[0], rule)
    stream = predict_stream(net, rows(500).split(9), rule, batch_size=40)
    for outcome in (stream, *both(net, rows(500), logits, rule)):
        outcomes_equal(outcome, cached)


# --- collect


def test_collect_caches_every_exit_in_order(table_net, rows):
    net, labels = table_net(LOGITS), torch.tensor([3, 1, 2, 0])
    logits, found = collect(net, zip(rows(4).split(3), labels.split(3), strict=True))
    assert torch.equal(logits, LOGITS)
    assert torch.equal(found, labels)
    assert logits.dtype == torch.float32
    assert net.seen == [[3, 1]] * 3


def test_what_is_no_tensor_of_logits_is_named(table_net, rows):
    """One logit would be taken for class 0 with confidence 1."""
    one = table_net([[[0.3]], [[0.2]]])
    for run in (
        lambda: predict(one, rows(1), Confidence(0.5)),
        lambda: simulate(torch.zeros(2, 3, 1), Confidence(0.5)),
        lambda: collect(one, [(rows(1), torch.zeros(1))]),
    ):
        with pytest.raises(ValueError, match=r"single logit .*torch\.cat"):
            run()
    net = table_net([[[0.3, 0.1]], [[0.2, 0.4]]])
    for x in ({"x": rows(1)}, rows(1).numpy()):
        with pytest.raises(TypeError, match="one tensor .* got (dict|ndarray)"):
            predict(net, x, Confidence(0.5))

    class Output(nn.Module):
        def forward(self, x):
            return {"logits": x}

    with pytest.raises(TypeError, match="exit 0 gave a dict"):
        predict(EarlyExitNetwork([Output()], []).eval(), rows(1), Confidence(0.5))


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        ({"image": 1, "label": 2}, "got dict"),
        ((torch.zeros(1), torch.zeros(1), torch.zeros(1)), "got Tensor, Tensor, Tensor"),
        ((torch.zeros(1, 1).numpy(), torch.zeros(1)), "got ndarray, Tensor"),
    ],
)
def test_batches_are_pairs_of_tensors(table_net, batch, found):
    with pytest.raises(TypeError, match=f"pair of tensors .*{found}"):
        collect(table_net([[[0.3, 0.1]], [[0.2, 0.4]]]), [batch])


def test_collected_logits_can_be_trained_on(table_net, rows):
    logits, labels = collect(table_net([[[0.3, 0.1]], [[0.2, 0.4]]]), [(rows(1), torch.zeros(1))])
    temperature = nn.Parameter(torch.ones(1))
    nn.functional.cross_entropy(logits[-1] / temperature, labels.long()).backward()
    assert temperature.grad.isfinite()


def test_empty_batches_among_others(table_net, rows):
    net, none = table_net(LOGITS), torch.arange(0)
    batches = [(rows(0), none), (rows(4), torch.arange(4)), (rows(0), none)]
    logits, labels = collect(net, batches)
    assert torch.equal(logits, LOGITS) and labels.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="no batch"):
        collect(net, batches[:1])


def test_logits_of_whole_numbers_are_refused():
    with pytest.raises(TypeError, match="logits must be floats"):
        simulate(LOGITS.long(), Confidence(0.5))
