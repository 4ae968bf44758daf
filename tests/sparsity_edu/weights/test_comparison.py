"""Methods side by side: every run begins with the dense model, and what is reported is measured."""

import pytest
import torch
from test_driver import CALIBRATION, make

from sparsity_edu.models import perplexity
from sparsity_edu.weights import comparison, driver
from sparsity_edu.weights.driver import LayerResult

VALIDATION = torch.randint(97, (4, 24), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def runs():
    model = make("llama")
    found = comparison.compare(
        model, ["magnitude", "wanda"], [0.5, "1:4"], CALIBRATION, VALIDATION, progress=False, true_sequential=True
    )
    return model, list(found)


def test_every_run_begins_with_the_dense_weights(runs):
    _, found = runs
    assert [(run.method, run.setting) for run in found] == [
        ("magnitude", 0.5),
        ("wanda", 0.5),
        ("magnitude", "1:4"),
        ("wanda", "1:4"),
    ]
    for run in found:
        target = {"pattern": run.setting} if isinstance(run.setting, str) else {"sparsity": run.setting}
        model = make("llama")
        driver.prune_(model, run.method, calibration=CALIBRATION, progress=False, true_sequential=True, **target)
        assert run.perplexity == pytest.approx(perplexity(model, VALIDATION.flatten(), 24, progress=False), rel=1e-5)
        assert run.sparsity == pytest.approx(0.5 if run.setting == 0.5 else 0.75, abs=0.01)
        assert run.seconds > 0


def test_the_model_is_dense_again_in_the_end(runs):
    for got, want in zip(runs[0].parameters(), make("llama").parameters(), strict=True):
        assert torch.equal(got, want)


def test_also_if_a_run_fails():
    model = make("llama")
    with pytest.raises(ValueError, match="multiple of m = 7"):
        list(comparison.compare(model, ["wanda"], [0.5, "3:7"], CALIBRATION, VALIDATION, progress=False))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), make("llama").parameters(), strict=True))


def test_layers_of_a_kind_are_taken_together():
    layers = [
        LayerResult("model.layers.0.self_attn.q_proj", 100, 0.5, 0.1),
        LayerResult("model.layers.0.mlp.up_proj", 300, 0.25, 0.2),
        LayerResult("model.layers.11.self_attn.q_proj", 300, 0.7, 0.3),
        LayerResult("model.layers.11.mlp.up_proj", 100, 0.25, None),
    ]
    kinds = comparison.by_kind(layers)
    assert list(kinds) == ["self_attn.q_proj", "mlp.up_proj"]
    assert kinds["self_attn.q_proj"] == ("self_attn.q_proj", 400, pytest.approx(0.65), pytest.approx(0.2))
    assert kinds["mlp.up_proj"] == ("mlp.up_proj", 400, 0.25, 0.2)


def test_the_figure_shows_every_run(runs):
    figure = comparison.draw(runs[1], dense=90.0, title="small")
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    for run in runs[1]:
        if run.setting == 0.5:
            assert list(lines[run.method]) == [90.0, run.perplexity]
    heights = [bar.get_height() for bar in figure.axes[1].patches]
    assert heights == [run.perplexity for run in runs[1] if run.setting == "1:4"]
    assert len(comparison.draw([run for run in runs[1] if run.setting == 0.5], 90.0).axes) == 1
    assert len(comparison.draw([run for run in runs[1] if run.setting == "1:4"], 90.0).axes) == 1


def test_settings_in_order():
    given = ["1:4", 0.7, "4:8", 0.25, "2:4", 0.5]
    assert comparison.in_order(given) == [0.25, 0.5, 0.7, "2:4", "4:8", "1:4"]


def run_of(method, setting, *layers):
    return comparison.Run(method, setting, 1.0, 1.0, [LayerResult(str(i), *layer, None) for i, layer in enumerate(layers)])


def test_a_sparsity_that_was_not_asked_for_is_explained():
    runs = [
        run_of("magnitude", 0.3, (100, 0.3), (50, 0.3)),
        run_of("wanda", 0.3, (100, 0.2969), (50, 0.2995)),
        run_of("wanda", 0.5, (100, 0.5)),
        run_of("sparsegpt", 0.3, (100, 0.3001)),
        run_of("sparsegpt", "2:4", (100, 0.5)),
    ]
    assert comparison.explain(runs) == [
        "29.78% for 30.00%: wanda removes a whole number of each row's weights, rounded down",
        "30.01% for 30.00%: sparsegpt removes one weight more from each block of 128 columns, as its authors' code does",
    ]
    [remark] = comparison.explain([run_of("magnitude", "2:4", (100, 0.7))])
    assert remark == "70.00% for 50.00%: weights that were zero before, or whose input always is, count too"
    assert set(comparison.WHOLE) == set(driver.METHODS)


@pytest.mark.parametrize("method", driver.METHODS)
def test_the_explanations_are_what_happens(method):
    """0.3 of 48 columns is no whole number, nor is 0.3 of some matrices."""
    model = make("llama")
    run = comparison.measure(model, method, 0.3, CALIBRATION, VALIDATION, progress=False)
    expected = {"magnitude": run.asked - 0.0005, "wanda": 14 / 48, "sparsegpt": run.asked}[method]
    assert min(layer.sparsity for layer in run.layers if layer.size % 80) == pytest.approx(expected, abs=2e-3)
    assert (run.sparsity > run.asked) == (method == "sparsegpt")
