"""Unit 13: what its exercises take for right is what the library does, and its inputs are what they claim to be."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from worked import cases

from autograder.checking.score import score_object
from autograder.exercises import find
from autograder.exercises.deja_vu import fixtures
from autograder.exercises.deja_vu.choose_mistakes import checked, first_best
from autograder.exercises.deja_vu.reads_mistakes import TABLE, looked_up
from autograder.exercises.deja_vu.sparse_mlp_mistakes import gathered
from autograder.exercises.deja_vu.variants import trained
from sparsity_edu.activations import dejavu, execution, labels, predictor


def near(got, want, tolerance=1e-5):
    return (got - want).abs().max() <= tolerance * want.abs().max()


def test_labels_are_as_in_the_library():
    for case, (neurons, heads) in cases("deja_vu.labels"):
        pre, outputs, share = (*case.args, case.kwargs.get("share", 0.7))[:3]
        assert torch.equal(labels.active_neurons(pre), neurons)
        assert torch.equal(labels.active_heads(outputs, share), heads)


def test_predictors_are_as_in_the_library():
    for case, want in cases("deja_vu.logits"):
        x, A, B = case.args
        module = predictor.Predictor(A.shape[1], *B.T.shape).to(A.dtype)
        module.load_state_dict({"down.weight": A, "up.weight": B})
        assert near(module(x), want)


def test_infinite_products_are_infinite():
    stage = find("deja_vu.logits").stages[1]
    for case in find("deja_vu.logits").cases(stage, "public"):
        x, A, B = case.args
        assert (B @ A).isinf().any()
        assert F.linear(F.linear(x, A), B).isfinite().all()


def test_losses_are_as_in_the_library():
    for case, want in cases("deja_vu.loss"):
        logits, needed, extra = (*case.args, 0.005)[:3]
        assert near(predictor.weighted_loss(logits, needed, extra), want)


def test_training_is_as_in_the_library():
    for case, (A, B, curve) in cases("deja_vu.train"):
        first, second, batches, held_out, epochs = case.args[:5]
        settings = dict(zip(("rate", "extra"), case.args[5:], strict=False)) | case.kwargs
        settings = {"rate": 1e-3, "extra": 0.005} | settings
        module = predictor.Predictor(first.shape[1], *second.T.shape).to(first.dtype)
        module.load_state_dict({"down.weight": first, "up.weight": second})
        optimizer = torch.optim.AdamW(module.parameters(), lr=settings["rate"], weight_decay=predictor.WEIGHT_DECAY)
        points, kept = [], []
        while len(points) < epochs and not (points and points[-1][0] > predictor.ENOUGH):
            predictor.train_epoch(module, optimizer, batches, settings["extra"])
            found = predictor.evaluate(module, *held_out, settings["extra"])
            points.append((found.recall, found.precision, found.sparsity))
            kept.append([W.detach().clone() for W in module.parameters()])
        assert [tuple(point) for point in curve] == points
        best = max(range(len(points)), key=lambda i: points[i][0])
        assert near(A, kept[best][0])
        assert near(B, kept[best][1])


def test_choices_are_as_in_the_library_where_no_logits_are_equal():
    seen = 0
    for case, want in cases("deja_vu.choose"):
        logits, k = case.args
        if all(len(row.unique()) == len(row) for row in logits):
            seen += 1
            assert torch.equal(labels.chosen(logits, k), want)
    assert seen > 5


def test_a_sparse_mlp_is_as_in_the_library():
    for case, want in cases("deja_vu.sparse_mlp"):
        x, chosen, up, down, gate, b_up, b_down = (*case.args, None, None, None)[:7]
        b_up, b_down = case.kwargs.get("b_up", b_up), case.kwargs.get("b_down", b_down)
        idx = chosen.nonzero().view(-1)
        got = execution.sparse_mlp(x, idx, down.T.contiguous(), up, gate, biases=(None, b_up, b_down))
        assert near(got, want) or not want.any()


def test_the_active_neurons_are_enough():
    stage = next(stage for stage in find("deja_vu.sparse_mlp").stages if stage.name.startswith("exact"))
    for case in find("deja_vu.sparse_mlp").cases(stage, "public")[:3]:
        x, chosen, up, _, gate, b_up, _ = case.args
        decides = (F.linear(x, up, b_up) if gate is None else F.linear(x, gate))[chosen]
        assert 0 < len(decides) < len(chosen)
        assert (decides > 0).all()


def test_conventions_are_as_in_the_library():
    for case, want in cases("deja_vu.reads"):
        convention, kind, layer = case.args
        point, back = dejavu.LOOKAHEAD[convention][kind]
        assert want == (None if layer < back else [point, layer - back] if isinstance(want, list) else (point, layer - back))


def test_heads_have_another_order_by_every_measure():
    outputs = fixtures.head_outputs(torch.Generator().manual_seed(0), 200, 6, 5)
    assert fixtures.apart(outputs.norm(dim=-1)).all()
    first = outputs.norm(dim=-1).argmax(dim=-1)
    for size in (outputs.abs().sum(dim=-1), outputs.abs().amax(dim=-1), outputs.sum(dim=-1)):
        assert (size.argmax(dim=-1) != first).sum() > 5


def cheaper_order(x, A, B):
    return torch.linalg.multi_dot([x, A.T, B.T])


def finite_product(x, A, B):
    return x @ (B @ A).nan_to_num().T


def held_back(x, A, B):
    return F.linear(F.linear(x, A), B).clamp(-1e4, 1e4)


def at_most_one(logits, labels, extra=0.005):
    y = labels.to(logits.dtype)
    w = (y.mean() + extra).clamp(max=1)
    return F.binary_cross_entropy_with_logits(logits, y, weight=torch.where(labels, 1.0, w))


def clipped(*args, **options):
    class Clipped(torch.optim.AdamW):
        def step(self):
            torch.nn.utils.clip_grad_norm_(self.param_groups[0]["params"], 1.0)
            super().step()

    return trained(*args, **options, optimizer=lambda weights, rate: Clipped(weights, lr=rate, weight_decay=0.01))


def no_extra(A, B, batches, held_out, epochs, rate=1e-3, extra=0.0):
    return trained(A, B, batches, held_out, epochs, rate, extra)


@checked
def tiny_steps(z, k):
    return first_best(z.double() - 1e-15 * torch.arange(z.shape[1]), k)


@checked
def nearly_equal(z, k):
    return first_best(z.round(decimals=6), k)


@checked
def no_token_axis(z, k):
    return first_best(z, k).squeeze(0)


@checked
def far_below(z, k):
    rest, mask = z.clone(), torch.zeros_like(z, dtype=torch.bool)
    for _ in range(min(k, z.shape[1])):
        best = rest.argmax(dim=-1, keepdim=True)
        mask, rest = mask.scatter(-1, best, True), rest.scatter(-1, best, -1e9)
    return mask


def gate_or_bias(x, chosen, up, down, gate=None, b_up=None, b_down=None):
    return gathered(x, chosen, up, down, gate, b_up if gate is None or b_down is not None else None, b_down)


def one_bias_or_none(x, chosen, up, down, gate=None, b_up=None, b_down=None):
    return gathered(x, chosen, up, down, gate, b_up, b_down if gate is None or b_up is not None else None)


def loosely_named(convention, kind, layer):
    named = next((name for name, _ in TABLE if name in convention), convention)
    return looked_up(named, "neurons" if kind.startswith("n") else kind, layer)


def any_kind_last(convention, kind, layer):
    return looked_up(convention, "neurons" if convention == "latency" and kind != "heads" else kind, layer)


@pytest.mark.parametrize("seed", ["public", "a secret"])
@pytest.mark.parametrize(
    ("id", "wrong"),
    [
        ("logits", cheaper_order),
        ("logits", finite_product),
        ("logits", held_back),
        ("loss", at_most_one),
        ("train", clipped),
        ("train", no_extra),
        ("choose", tiny_steps),
        ("choose", nearly_equal),
        ("choose", no_token_axis),
        ("choose", far_below),
        ("sparse_mlp", gate_or_bias),
        ("sparse_mlp", one_bias_or_none),
        ("sparse_mlp", partial(gathered, act=F.relu6)),
        ("sparse_mlp", partial(gathered, act=lambda h: torch.where(h > 1e-3, h, 0.0))),
        ("reads", loosely_named),
        ("reads", any_kind_last),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_answers_that_look_right_are_not(id, wrong, seed):
    verdict = score_object(find(f"deja_vu.{id}"), wrong, seed)
    assert 0 < verdict.points < verdict.max_points
