"""predict stops, compacts the batch, and says what simulate and one sample at a time say."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from eenotes import (
    ClassMeanConfidence,
    Confidence,
    EarlyExitNetwork,
    Entropy,
    Patience,
    PerClass,
    ScoreRule,
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


def outcomes_equal(a, b):
    assert torch.equal(a.prediction, b.prediction)
    assert torch.equal(a.exit_index, b.exit_index)
    assert torch.allclose(a.confidence, b.confidence, atol=1e-5)


# --- it really stops


def test_who_leaves_when_by_hand(table_net, rows):
    outcome = predict(table_net(LOGITS), rows(4), Confidence(0.9))
    assert outcome.exit_index.tolist() == [0, 1, 2, 2]
    assert outcome.prediction.tolist() == [0, 0, 0, 1]
    sure, unsure = LOGITS[0, :2].softmax(1)[:, 0].tolist()
    assert outcome.confidence.tolist() == pytest.approx([sure, sure, sure, unsure])
    assert (outcome.prediction.dtype, outcome.exit_index.dtype, outcome.confidence.dtype) == (
        torch.int64,
        torch.int64,
        torch.float32,
    )


def test_a_stage_sees_only_who_is_still_there(table_net, rows):
    net = table_net(LOGITS)
    predict(net, rows(4), Confidence(0.9))
    assert net.seen == [[4], [3], [2]]


def test_nothing_runs_after_the_last_has_left(table_net, rows):
    net = table_net(LOGITS)
    outcome = predict(net, rows(4), Confidence(0.0))
    assert outcome.exit_index.tolist() == [0, 0, 0, 0]
    assert net.seen == [[4], [], []]


def test_nobody_leaves_at_threshold_1(table_net, rows):
    net = table_net(LOGITS)
    assert predict(net, rows(4), Confidence(1.0)).exit_index.tolist() == [2, 2, 2, 2]
    assert net.seen == [[4], [4], [4]]


def test_one_exit_may_be_closed(table_net, rows):
    net = table_net(LOGITS)
    assert predict(net, rows(4), Confidence([1.0, 0.9])).exit_index.tolist() == [1, 1, 2, 2]
    assert net.seen == [[4], [4], [2]]


def test_patience_travels_with_its_sample(table_net, rows):
    """Who leaves is taken out of the state, too: afterwards row 0 of the state belongs to another
    sample.
    """
    said = torch.tensor([[0, 1, 0], [0, 0, 1], [2, 0, 1], [1, 0, 0]])  # 4 exits × 3 samples
    net = table_net(torch.nn.functional.one_hot(said, 3).float())
    outcome = predict(net, rows(3), Patience(1))
    assert outcome.exit_index.tolist() == [1, 2, 2]
    assert outcome.prediction.tolist() == [0, 0, 1]
    assert net.seen == [[3], [3], [2], []]


def test_a_rule_of_ones_own_with_a_state(table_net, rows):
    """Leave with the k-th exit where k is the number of the sample; the state holds that number."""

    class Countdown:
        def check(self, num_exits):
            pass

        def __call__(self, j, logits, state=None):
            state = torch.arange(len(logits)) if state is None else state - 1
            return Decision(logits.argmax(1), logits.softmax(1).amax(1), state == 0, state)

    for outcome in (
        predict(table_net(LOGITS), rows(4), Countdown()),
        simulate(LOGITS, Countdown()),
    ):
        assert outcome.exit_index.tolist() == [0, 1, 2, 2]


def test_the_input_and_the_network_stay_as_they_are(table_net, rows, unchanged):
    net, x = table_net(LOGITS), rows(4)
    with unchanged(net):
        predict(net, x, Confidence(0.9))
    assert torch.equal(x, rows(4))


# --- the same answer, whoever asks


@st.composite
def rules(draw, num_exits, classes):
    unit = st.floats(0, 1)
    per_exit = st.lists(unit, min_size=num_exits - 1, max_size=num_exits - 1)
    kind = draw(
        st.sampled_from(
            ["confidence", "normalised", "entropy", "patience", "class", "exit and class"]
        )
    )
    if kind == "patience":
        return Patience(draw(st.integers(1, 3)))
    if kind == "class":
        return PerClass([draw(unit) for _ in range(classes)])
    if kind == "exit and class":
        assume(num_exits > 1)
        return PerClass([[draw(unit) for _ in range(classes)] for _ in range(num_exits - 1)])
    thresholds = draw(st.one_of(unit, per_exit))
    if kind == "normalised":
        mu = tuple(
            draw(st.one_of(st.none(), st.just(torch.arange(1.0, classes + 1))))
            for _ in range(num_exits)
        )
        return ClassMeanConfidence(thresholds, mu)
    return {"confidence": Confidence, "entropy": Entropy}[kind](thresholds)


@st.composite
def cases(draw):
    """(logits (J, N, K), a rule that fits)"""
    num_exits, count, classes = (
        draw(st.integers(1, 4)),
        draw(st.integers(1, 7)),
        draw(st.integers(2, 4)),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    logits = draw(st.sampled_from([0.5, 2.0, 8.0])) * torch.randn(
        num_exits, count, classes, generator=generator
    )
    return logits, draw(rules(num_exits, classes))


@given(cases())
def test_predict_simulate_and_one_at_a_time_agree(table_net, rows, case):
    logits, rule = case
    count = logits.shape[1]
    net, expected = table_net(logits), simulate(logits, rule)
    outcomes_equal(predict(net, rows(count), rule), expected)
    outcomes_equal(simulate(list(logits), rule), expected)
    for i in range(count):
        alone = predict(net, rows(count)[i : i + 1], rule)
        assert alone.prediction == expected.prediction[i]
        assert alone.exit_index == expected.exit_index[i]
        assert torch.allclose(alone.confidence, expected.confidence[i], atol=1e-5)


@given(cases())
def test_an_outcome_is_the_rules_word_at_the_first_open_exit(case):
    """The definition, sample by sample, in a plain loop."""
    logits, rule = case
    outcome = simulate(logits, rule)
    for i in range(logits.shape[1]):
        state = None
        for j in range(len(logits)):
            said = rule(j, logits[j, i : i + 1], state)
            state = said.state
            if said.leave or j == len(logits) - 1:
                break
        assert (outcome.exit_index[i], outcome.prediction[i]) == (j, said.prediction)


@given(cases(), st.randoms())
def test_the_order_of_the_samples_does_not_matter(case, random):
    logits, rule = case
    order = list(range(logits.shape[1]))
    random.shuffle(order)
    whole, shuffled = simulate(logits, rule), simulate(logits[:, order], rule)
    assert torch.equal(shuffled.exit_index, whole.exit_index[order])
    assert torch.equal(shuffled.prediction, whole.prediction[order])


def far_from_thresholds(logits, rule):
    """The samples whose decisions do not hang on the fifth digit, ``(N,)``: the batch size changes
    logits by 1e-6.
    """
    clear = torch.ones(logits.shape[1], dtype=torch.bool)
    for j, z in enumerate(logits):
        if isinstance(rule, ScoreRule):
            threshold = (
                rule.thresholds
                if isinstance(rule.thresholds, float)
                else [*rule.thresholds, 2.0][j]
            )
            clear &= (rule.score(j, z).score - threshold).abs() > 1e-5
        elif isinstance(rule, PerClass):
            threshold = (
                rule.thresholds
                if rule.thresholds.ndim == 1
                else rule.thresholds[min(j, len(rule.thresholds) - 1)]
            )
            clear &= ((z.softmax(1) - threshold).abs() > 1e-5).all(1)
        best = z.topk(min(2, z.shape[1]), 1).values
        clear &= (best[:, 0] - best[:, -1] > 1e-5) | torch.tensor(z.shape[1] == 1)
    return clear


@given(
    st.data(),
    st.integers(0, 10_000),
    st.integers(1, 4),
    st.integers(2, 5),
    st.integers(1, 40),
    st.sampled_from([1, 3, 16]),
)
def test_predict_equals_simulate_on_networks_for_every_batch_size(
    data, seed, num_exits, classes, count, size
):
    rule = data.draw(rules(num_exits, classes))
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        stages = [
            nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU())
            for _ in range(num_exits - 1)
        ]
        heads = [nn.Linear(16, classes) for _ in range(num_exits)]
        x = 3 * torch.randn(count, 16)
    net = EarlyExitNetwork([*stages, heads[-1]], heads[:-1]).eval()
    with torch.no_grad():
        clear = far_from_thresholds(torch.stack(net(x)), rule)
    assume(clear.any())
    x = x[clear]
    logits, labels = collect(net, [(part, torch.zeros(len(part))) for part in x.split(size)])
    assert logits.shape[:2] == (net.num_exits, len(x))
    assert len(labels) == len(x)
    expected = simulate(logits, rule)
    outcomes_equal(predict(net, x, rule), expected)
    for wait in (1, size, 2 * size + 1):
        outcomes_equal(predict_stream(net, x.split(size), rule, batch_size=wait), expected)
    for part, start in zip(x.split(size), range(0, len(x), size), strict=True):
        outcome = predict(net, part, rule)
        assert torch.equal(outcome.exit_index, expected.exit_index[start : start + size])
        assert torch.equal(outcome.prediction, expected.prediction[start : start + size])


# --- the edges


@pytest.mark.parametrize(
    "rule",
    [Confidence(0.5), Confidence([]), Entropy(0.1), Entropy([]), Patience(1), PerClass([0.5, 0.5])],
)
def test_a_network_without_early_exits(table_net, rows, rule):
    logits = LOGITS[:1]
    for outcome in (predict(table_net(logits), rows(4), rule), simulate(logits, rule)):
        assert outcome.exit_index.tolist() == [0, 0, 0, 0]
        assert outcome.prediction.tolist() == [0, 0, 0, 0]


def test_thresholds_of_the_wrong_length(table_net, rows):
    for rule in (Confidence([0.5]), Entropy([0.5, 0.5, 0.5]), PerClass([[0.5, 0.5]])):
        for ask in (
            lambda rule=rule: predict(table_net(LOGITS), rows(4), rule),
            lambda rule=rule: simulate(LOGITS, rule),
        ):
            with pytest.raises(ValueError, match="early exits"):
                ask()


def test_training_mode_is_refused_wherever_it_hides(table_net, rows):
    net = table_net(LOGITS)
    net.stages[1].train()
    for ask in (
        lambda: predict(net, rows(4), Confidence(0.5)),
        lambda: collect(net, [(rows(4), torch.zeros(4))]),
    ):
        with pytest.raises(ValueError, match="training mode"):
            ask()
    assert net.seen == [[], [], []]


def test_an_empty_batch(table_net, rows):
    with pytest.raises(ValueError, match="empty"):
        predict(table_net(LOGITS), rows(0), Confidence(0.5))
    with pytest.raises(ValueError, match="empty"):
        simulate(LOGITS[:, :0], Confidence(0.5))
    with pytest.raises(ValueError, match="no batch"):
        collect(table_net(LOGITS), [])


def test_exits_of_different_lengths():
    for logits in ([], [torch.zeros(3, 2), torch.zeros(4, 2)]):
        with pytest.raises(ValueError, match="same samples"):
            simulate(logits, Confidence(0.5))


@pytest.mark.parametrize("rule", [Confidence(0.9), Entropy(0.1), Patience(1), PerClass([0.9, 0.9])])
def test_nan_logits(table_net, rows, rule):
    logits = LOGITS.clone()
    logits[1, 3] = float("nan")
    streams = (
        lambda size=size: predict_stream(table_net(logits), [rows(4)], rule, batch_size=size)
        for size in (1, 3, 4)
    )
    for ask in (
        lambda: predict(table_net(logits), rows(4), rule),
        lambda: simulate(logits, rule),
        *streams,
    ):
        with pytest.raises(ValueError, match="exit 1 gave NaN"):
            ask()


@pytest.mark.parametrize("rule", [Confidence(0.6), Entropy(0.9), PerClass([0.6] * 3)])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_changes_no_decision(kind, rule, table_net, rows):
    """The cached logits are float32; a rule that rounds its entropies to bfloat16 would decide
    otherwise for some of these.
    """
    logits = torch.randn(3, 500, 3, generator=torch.Generator().manual_seed(0)).to(kind)
    # the numbers of the rows stay whole: they are not given in this precision
    net = table_net(logits).to(kind)
    cached = simulate(collect(net, [(rows(500), torch.zeros(500))])[0], rule)
    for outcome in (
        predict_stream(net, rows(500).split(9), rule, batch_size=40),
        predict(net, rows(500), rule),
        simulate(logits, rule),
    ):
        outcomes_equal(outcome, cached)


def test_labels_that_are_not_one_per_sample(table_net, rows):
    for labels in (torch.zeros(4, 1), torch.zeros(3)):
        with pytest.raises(ValueError, match=r"one label per sample, \(B,\)"):
            collect(table_net(LOGITS), [(rows(4), labels)])


def test_an_exit_that_answers_for_places_is_sent_elsewhere():
    net = EarlyExitNetwork([nn.Identity(), nn.Conv2d(1, 2, 1)], [nn.Conv2d(1, 2, 1)]).eval()
    with pytest.raises(ValueError, match=r"exit 0 gave logits \(3, 2, 5, 5\).*segment\(\)"):
        predict(net, torch.zeros(3, 1, 5, 5), Confidence(0.5))


def test_mixed_devices(table_net, rows):
    with pytest.raises(ValueError, match=r"different devices: \['cpu', 'meta'\]"):
        predict(table_net(LOGITS), rows(4).to("meta"), Confidence(0.5))


class MovesBatch(nn.Module):
    def forward(self, x):
        return x.repeat(2, 1)


def test_a_stage_must_keep_the_batch_first():
    net = EarlyExitNetwork(
        [nn.Identity(), MovesBatch(), nn.Identity()], [nn.Linear(2, 2), nn.Linear(2, 2)]
    ).eval()
    with pytest.raises(ValueError, match="stage 1 turned a batch of 3 into 6"):
        predict(net, torch.randn(3, 2), Confidence(1.0))


# --- collect


def test_collect_caches_every_exit_in_order(table_net, rows):
    net, labels = table_net(LOGITS), torch.tensor([3, 1, 2, 0])
    logits, found = collect(net, zip(rows(4).split(3), labels.split(3), strict=True))
    assert torch.equal(logits, LOGITS)
    assert torch.equal(found, labels)
    assert logits.dtype == torch.float32
    assert net.seen == [[3, 1]] * 3


# --- rebatching


def test_the_survivors_of_two_batches_share_a_stage(table_net, rows):
    """Of each pair one stays: alone, stage 2 would see 1 and then 1; waiting for one another, it
    sees 2.
    """
    logits = torch.tensor(
        [[SURE, UNSURE, SURE, UNSURE], [SURE, SURE, SURE, UNSURE], [SURE, SURE, SURE, SURE]]
    )
    net = table_net(logits)
    outcome = predict_stream(net, rows(4).split(2), Confidence(0.9), batch_size=2)
    assert net.seen == [[2, 2], [2], [1]]
    assert outcome.exit_index.tolist() == [0, 1, 0, 2]


def test_a_stage_takes_as_many_as_were_asked_for(table_net, rows):
    """Two batches of three, two at a time; the first of each pair leaves at once, and only the end
    of the stream is smaller.
    """
    net = table_net(torch.tensor([[SURE, UNSURE] * 3, [SURE] * 6]))
    outcome = predict_stream(net, rows(6).split(3), Confidence(0.9), batch_size=2)
    assert net.seen == [[2, 2, 2], [2, 1]]
    assert outcome.exit_index.tolist() == [0, 1, 0, 1, 0, 1]


def test_who_waits_at_the_end_is_served(table_net, rows):
    net = table_net(LOGITS)
    outcomes_equal(
        predict_stream(net, rows(4).split(1), Confidence(0.9), batch_size=100),
        simulate(LOGITS, Confidence(0.9)),
    )
    assert net.seen == [[4], [3], [2]]


def test_patience_waits_with_its_sample(table_net, rows):
    said = torch.tensor([[0, 1, 0], [0, 0, 1], [2, 0, 1], [1, 0, 0]])  # as above
    net = table_net(torch.nn.functional.one_hot(said, 3).float())
    outcome = predict_stream(net, rows(3).split(1), Patience(1), batch_size=2)
    assert outcome.exit_index.tolist() == [1, 2, 2]


class _Layout(nn.Module):
    """Notes whether its input is channels last."""

    def forward(self, x):
        self.channels_last = x.is_contiguous(memory_format=torch.channels_last)
        return x.mean((2, 3))


@pytest.mark.parametrize(
    "infer", [predict, lambda *a: predict_stream(a[0], [a[1]], a[2], batch_size=2)]
)
def test_the_samples_that_stay_keep_the_memory_format(infer):
    """Images with a mean of 4 in one channel exit; two of four stay, as they are."""
    last = _Layout()
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = torch.zeros(4, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    x[::2, 0] = 4
    x[1::2, 1] = 0.1
    outcome = infer(EarlyExitNetwork([nn.Identity(), last], [head]).eval(), x, Confidence(0.9))
    assert outcome.exit_index.tolist() == [0, 1, 0, 1]
    assert outcome.prediction.tolist() == [0, 1, 0, 1]
    assert last.channels_last


def test_bad_streams(table_net, rows):
    net = table_net(LOGITS)
    with pytest.raises(ValueError, match="batch_size"):
        predict_stream(net, [rows(4)], Confidence(0.5), batch_size=0)
    for empty in ([], [rows(0)]):
        with pytest.raises(ValueError, match="no samples"):
            predict_stream(net, empty, Confidence(0.5), batch_size=2)
    with pytest.raises(ValueError, match="thresholds"):
        predict_stream(net, [rows(4)], Confidence([0.5] * 5), batch_size=2)
    with pytest.raises(TypeError, match="without labels; got tuple"):
        predict_stream(net, [(rows(4), torch.zeros(4))], Confidence(0.5), batch_size=2)


@pytest.mark.parametrize("size", [2, 3])  # whole batches, and such as are put together
@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(2, 2, 3, 3),
        torch.zeros(2, 2, 2, 2, dtype=torch.float64),
        torch.zeros(2, 2, 2, 2, device="meta"),
    ],
)
def test_a_stream_of_different_samples(other, size):
    anything = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = EarlyExitNetwork([nn.Identity(), anything], [anything]).eval()
    with pytest.raises(ValueError, match="one shape, type and device"):
        predict_stream(net, [torch.zeros(2, 2, 2, 2), other], Confidence(1.0), batch_size=size)


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
