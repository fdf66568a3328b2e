"""The pages around the chapters: their code runs, their advice and names agree with the rest."""

import inspect
import json
import pkgutil
import re

import chapters
import evidence
import pytest
import results
import teaching
from results import Chapter

from eenotes import split
from eenotes.language import initialisation
from eenotes_book import records, settings
from eenotes_book.ch02_e2cm import at_costs, claims, published_study
from eenotes_book.ch04_cbt import experiment as ch04_cbt

NAMES = chapters.chapters()


def page(name: str) -> str:
    return (chapters.BOOK / f"{name}.md").read_text(encoding="utf-8")


# --- your own model


def blocks(name: str) -> list[str]:
    return re.findall(r"(?ms)^```python\n(.*?)^```", page(name))


def run(code: list[str]) -> dict:
    """The names after blocks of code have run one after another."""
    space: dict = {}
    for number, block in enumerate(code):
        exec(compile(block, f"block {number + 1}", "exec"), space)
    return space


def test_the_code_on_write_your_own_runs(capsys):
    """A rule, an exit and a verdict, as a reader would paste them."""
    space = run(blocks("write-your-own"))
    top = space["logits"][0].softmax(1).topk(2).values
    leaves = space["outcome"].exit_index == 0
    assert leaves.tolist() == ((top[:, 0] - top[:, 1]) > 0.1).tolist() and len(space["truth"]) == 60
    with pytest.raises(ValueError, match=r"Margin: thresholds must be .* in \[0, 1\]"):
        space["Margin"](1.5)
    printed = capsys.readouterr().out
    assert all(verdict in printed for verdict in ("holds", "not testable here", "one run"))


@pytest.mark.slow
def test_the_code_on_bring_your_own_model_runs(capsys, tmp_path, monkeypatch):
    """Every block, in order, as a reader would paste them; and the ten lines are ten."""
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("transformers")
    code = blocks("bring-your-own-model")
    assert len(code) >= 7 and len(code[1].split("\n\n", 1)[1].strip().splitlines()) == 10
    space = run(code)
    said = capsys.readouterr().out
    assert 0 < float(space["cost"]) <= 1.1
    assert re.search(r"accuracy \d\.\d{3} at \d\.\d\d of the computation", said)
    assert "layer2" in said and "no cut is possible after 'layer1.0.conv1'" in said
    assert space["found"].counts.sum() == 320, "the last block's class statistics"


@pytest.mark.slow
def test_the_code_on_ship_it_runs(capsys, tmp_path, monkeypatch):
    """Every block, in order; from a trained network to a served one are thirty lines at most."""
    for name in ("onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed: the extra ship brings it")
    monkeypatch.chdir(tmp_path)
    code = blocks("ship-it")
    assert len(code) == 6 and len(code[1].strip().splitlines()) <= 30
    space = run(code)
    for answer in (space["answer"], space["small"]):
        taken = answer.exit_index
        assert 0 < (taken == 2).sum() < len(taken), "samples leave early, and others go on"
    assert re.search(r"\d\.\d\d of the computation", capsys.readouterr().out)


def test_ship_it_says_what_its_benchmark_measured():
    """The class of the page is the one that is timed, and the tables are those of the record."""
    pytest.importorskip("onnxruntime", reason="the extra ship is not installed")
    from benchmarks import serving

    assert inspect.getsource(serving.WholeCascade).strip() in page("ship-it")
    results = json.loads(serving.RESULTS.read_text(encoding="utf-8"))
    assert serving.report.into_page(page("ship-it"), results) == page("ship-it")
    for network in results["networks"].values():
        assert set(network["other answers"].values()) == {0}
        broken = [a["disagreement"] for a in network["answers"].values()]
        assert broken[0] < serving.LEVEL + 0.005, "the promise, on 5,000 other images"


def test_the_model_that_cannot_be_traced_really_cannot():
    block = next(b for b in blocks("bring-your-own-model") if "class Stubborn" in b)
    space = run([block.split("whole = ")[0]])
    with pytest.raises(ValueError, match="write the stages by hand"):
        split(space["Stubborn"]().eval(), at=["stem"])


# --- what records say


def record(claims: list[dict], *, current: bool = True) -> dict:
    return {"claims": claims, "current": current}


def claim(statement: str, ours: float, verdict: str, spread: float | None = None) -> dict:
    row = {"statement": statement, "thesis": "", "ours": ours, "spread": spread}
    return row | {"verdict": verdict, "where": "here"}


def test_evidence_shows_every_run_with_its_verdict():
    fresh = record([claim("digits: A is ahead of B", 0.5, "holds")])
    ahead, other = ("MNIST: A is ahead of B", -0.25, "fails", 0.125), ("MNIST: C", 1.0, "holds")
    study = record([claim(*ahead), claim(*other)], current=False)
    places = {"here": "02-x.html#claim-here"}
    chapter = Chapter("02-x", "X", places, fresh=fresh, committed={"study": study})
    filled = evidence.fill("| a | <!-- evidence 02-x: A is ahead of B --> |", "tiny", [chapter])
    first, second = filled.removeprefix("| a | ").removesuffix(" |").split("<br>")
    for part in ("study", "MNIST:", "−0.250 ± 0.125", "✗ fails", results.OUTDATED):
        assert part in first
    for part in ("tiny, this build", "digits:", "0.5", "✓ holds", 'href="02-x.html#claim-here"'):
        assert part in second
    assert "MNIST: C" not in filled


@pytest.mark.parametrize(
    ("comment", "what"), [("03-y: A", "no such chapter"), ("02-x: Z", "no claim")]
)
def test_evidence_that_is_not_there_is_an_error(comment, what):
    chapter = Chapter("02-x", "X", {"here": "p"}, fresh=record([claim("A", 1.0, "holds")]))
    with pytest.raises(ValueError, match=what):
        evidence.fill(f"<!-- evidence {comment} -->", "tiny", [chapter])


# What the advice of which-method.md takes for granted: chapter, run, words of the claim, and the
# verdict that would contradict the advice.
ADVICE = [
    ("02-e2cm", "study", "40 % less computation", "fails"),
    ("03-pruning", "study", "together is better at the intermediate exits", "fails"),
    ("03-pruning", "study", "at the final exit separate pruning is ahead", "fails"),
    ("03-pruning", "study", "it is the exits' sparsity", "fails"),
    ("03-pruning", "reduced", "unstructured zeros leave the latency as it is", "fails"),
    ("03-pruning", "reduced", "removing channels saves time", "fails"),
    ("04-cbt", "study", "class thresholds of equal marginal loss: ahead of the best", "fails"),
    ("05-eeprune", "study", "random pruning; difference, 40% dropped", "fails"),
    ("05-eeprune", "study", "random pruning; difference, 60% dropped", "holds"),
    ("05-eeprune", "study", "methods without a quota unbalance the classes", "fails"),
    ("06-class-aware-init", "study", "All weights: the copied head ends ahead", "fails"),
    ("06-class-aware-init", "study", "drafting with no gradient step reads fewer", "fails"),
]


@pytest.mark.parametrize(("chapter", "run", "words", "contradiction"), ADVICE)
def test_advice_agrees_with_the_records(chapter, run, words, contradiction):
    path = chapters.RECORDS / run / f"{chapter}.json"
    found = evidence.matching(json.loads(path.read_text(encoding="utf-8")), words)
    assert found, f"no claim of this record has the words {words!r}"
    against = [c["statement"] for c in found if c.get("verdict") == contradiction]
    assert not against, f"book/which-method.md advises otherwise: {against}"


def test_advice_on_class_means_agrees_with_the_recorded_logits():
    found = records.Record("02-e2cm", data={}, seeds=[0])
    numbers = {"published": at_costs.kept(), "trained": published_study.recorded()}
    claims.claim_all(found, numbers)
    verdicts = {
        row["statement"].split(": ")[1].split(";")[0]: row["verdict"] for row in found.claims
    }
    assert verdicts["E²CM, whitened is ahead of E²CM"] == "holds"
    assert verdicts["E²CM, posterior is ahead of E²CM"] == "holds"
    assert verdicts["E²CM, whitened is not behind SDN"] == "holds"
    assert verdicts["E²CM is ahead of SDN, one epoch"] == "fails"
    assert all(word != "holds" for what, word in verdicts.items() if "keeps" in what)


# --- pages of reference


def test_glossary_terms_are_the_chapters_terms():
    """In alphabetical order, and each in the text of the chapters that its entry links to."""
    body = re.search(r"```\{glossary\}\n(.*?)```", page("glossary"), re.S)[1]
    entries = body.strip().split("\n\n")
    terms = [entry.split("\n")[0] for entry in entries]
    key = [term.lower().replace("²", "2") for term in terms]
    assert key == sorted(set(key)) and len(key) >= 70
    text = {}
    for name in NAMES:
        cells = chapters.read_notebook(chapters.BOOK / f"{name}.ipynb")["cells"]
        plain = " ".join(map(teaching.source, cells)).replace("*", "")
        text[f"{name}.ipynb"] = re.sub(r"\s+", " ", plain).lower()
    for term, entry in zip(terms, entries, strict=True):
        links = re.findall(r"\]\(([^)]+)\)", entry)
        assert links, f"{term}: introduced nowhere"
        for link in set(links) & set(text):
            missing = [word for word in term.split(", ") if word.lower() not in text[link]]
            assert not missing, f"{missing} is not in {link}"


def resolves(full: str) -> bool:
    try:
        pkgutil.resolve_name(full)
    except (ImportError, AttributeError):
        return False
    return True


def test_how_we_read_the_thesis_names_what_exists():
    """Every name in code with a dot is a module, a function, a class or one of its members."""
    names = set(re.findall(r"`((?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*)`", page("reading-the-thesis")))
    packages = ("eenotes", "eenotes.methods", "eenotes_book")
    assert len(names) > 50
    for name in names - {"settings.toml"}:
        assert any(resolves(f"{package}.{name}") for package in packages), name


def test_how_we_read_the_thesis_agrees_with_the_settings():
    text = page("reading-the-thesis")
    full, reduced = (settings.load("03-pruning", scale) for scale in ("full", "reduced"))
    for scale, s in (("full", full), ("reduced", reduced)):
        assert f"`{scale}`: {s.rate} × {s.rounds} rounds" in text
        assert round(1 - (1 - s.rate) ** s.rounds, 2) == 0.88 and "88 %" in text
    per_group = (full.depth - 2) // 6
    places = [name.split(".") for name in full.exits]
    after = [(int(group[-1]) - 1) * per_group + int(block) + 1 for group, block in places]
    assert after == [4, 8, 12, 16, 20, 24] and 3 * per_group == 27
    at = [settings.load("06-class-aware-init", scale) for scale in ("tiny", "reduced", "full")]
    assert ", ".join(f"{s.at} of {s.layers}" for s in at) in text
    assert ch04_cbt.SINGLE == 0.998 and initialisation.ALPHAS == (0.2, 0.4, 0.6, 0.8)
    study, big = (settings.load("05-eeprune", scale) for scale in ("study", "full"))
    fashion, cifar, large = study.FashionMNIST, study.CIFAR10, big.CIFAR100
    assert (fashion.score_epochs, cifar.score_epochs, large.score_epochs) == (6, 8, 10)
    assert (fashion.forgetting_epochs, cifar.forgetting_epochs) == (12, 16)
    assert {(s.el2n_networks, s.el2n_epochs) for s in (fashion, cifar)} == {(3, 4)}
