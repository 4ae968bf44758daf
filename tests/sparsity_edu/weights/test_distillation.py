"""Distillation: the divergence by its definition, its direction and its scale; a student comes closer to its teacher."""

import copy

import pytest
import torch
from test_minitron import decoder, windows

from sparsity_edu.weights import distillation
from sparsity_edu.weights.distillation import cross_entropy, distil_, logits_loss
from sparsity_edu.weights.minitron import Shape, importance, trim


def two_logits():
    g = torch.Generator().manual_seed(0)
    return torch.randn(2, 5, 11, generator=g) * 2, torch.randn(2, 5, 11, generator=g)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_loss_is_the_forward_divergence_per_token(temperature):
    student, teacher = two_logits()
    p, q = (torch.softmax(z.double() / temperature, dim=-1) for z in (teacher, student))
    wanted = temperature**2 * (p * (p / q).log()).sum(-1).mean()
    assert logits_loss(student, teacher, temperature).item() == pytest.approx(wanted.item(), rel=1e-5)
    assert logits_loss(student, teacher, temperature, "mean").item() == pytest.approx(wanted.item() / 11, rel=1e-5)
    assert logits_loss(teacher, student).item() != pytest.approx(logits_loss(student, teacher).item(), rel=0.05)
    assert logits_loss(student, student + 7).item() == pytest.approx(0, abs=1e-6)


def test_gradient_is_student_minus_teacher_and_keeps_its_size():
    student, teacher = two_logits()
    teacher.requires_grad_()
    sizes = []
    for temperature in (1.0, 20.0):
        z = student.clone().requires_grad_()
        logits_loss(z, teacher, temperature).backward()
        p, q = (torch.softmax(x / temperature, dim=-1) for x in (teacher.detach(), student))
        torch.testing.assert_close(z.grad, temperature * (q - p) / 10)  # 10 tokens
        sizes.append(z.grad.norm().item())
    assert teacher.grad is None
    assert 0.2 < sizes[1] / sizes[0] < 5  # without T^2 it would be 400 times smaller


def test_cross_entropy_is_what_transformers_reports():
    model, ids = decoder(), windows()
    with torch.no_grad():
        out = model(input_ids=ids, labels=ids)
    torch.testing.assert_close(cross_entropy(out.logits, ids), out.loss)


@pytest.fixture(scope="module")
def pair():
    teacher = decoder()
    return teacher, trim(teacher, Shape(3, 32, 4, 40), importance(teacher, windows(), progress=False))


def held_out(student, teacher):
    ids = windows(8, 12)
    with torch.no_grad():
        return logits_loss(student(input_ids=ids).logits, teacher(input_ids=ids).logits).item()


@pytest.mark.parametrize(
    "terms", [{}, {"hidden": 1.0}, {"embedding": 1.0}, {"hidden": 0.5, "embedding": 0.5, "temperature": 2.0}]
)
def test_a_student_comes_closer_to_its_teacher(pair, terms):
    teacher, student = pair[0], copy.deepcopy(pair[1])
    before, weights = held_out(student, teacher), copy.deepcopy(teacher.state_dict())
    text = torch.randint(0, 97, (64, 12), generator=torch.Generator().manual_seed(5))
    losses = distil_(student, teacher, text, 60, lr=3e-3, batch_size=8, progress=False, **terms)
    assert len(losses) == 60
    assert held_out(student, teacher) < 0.8 * before
    assert all(torch.equal(weights[name], tensor) for name, tensor in teacher.state_dict().items())
    assert not student.training
    assert not any(name.startswith("maps") for name in student.state_dict())  # projections are not part of it


def test_the_same_seed_trains_the_same_and_without_a_teacher_on_the_text(pair):
    text = windows(16, 10)
    students = [copy.deepcopy(pair[1]) for _ in range(3)]
    told = [distil_(student, pair[0], text, 4, progress=False) for student in students[:2]]
    assert told[0] == told[1]
    [first, *_] = distil_(students[2], None, text, 4, batch_size=16, progress=False)
    with torch.no_grad():
        assert first == pytest.approx(pair[1](input_ids=text, labels=text).loss.item(), rel=1e-5)


def test_every_window_is_seen_before_any_is_seen_again():
    text = torch.arange(10)[:, None]
    batches = distillation._batches(text, 4, torch.Generator().manual_seed(0))
    seen = torch.cat([next(batches) for _ in range(5)]).flatten().tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))


def test_the_rate_rises_and_falls_to_a_tenth():
    factor = distillation._rise_and_fall(1000, 100)
    assert [round(factor(step), 3) for step in (0, 49, 99, 100, 550, 1000)] == [0.01, 0.5, 1.0, 1.0, 0.55, 0.1]


def test_blocks_are_paired_evenly(pair):
    assert distillation._evenly(pair[1], pair[0]) == [(0, 0), (1, 1), (2, 3)]


def test_windows_longer_than_the_models_read_are_refused(pair):
    with pytest.raises(ValueError, match=r"window must be at most the model's \d+ positions, got 9999"):
        distil_(copy.deepcopy(pair[1]), None, torch.zeros(2, 9999, dtype=torch.long), steps=1, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps and batch_size must be positive, got 0 and 4"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"reduction": "sum"}, "reduction 'batchmean' or 'mean', got"),
        ({"teacher": None, "hidden": 1.0}, "hidden and embedding need a teacher"),
        ({"teacher": decoder(vocab_size=50)}, "one vocabulary, got 97 and 50 tokens"),
    ],
)
def test_what_is_not_allowed(pair, options, message):
    arguments = {"teacher": pair[0], "steps": 1} | options
    with pytest.raises(ValueError, match=message):
        distil_(copy.deepcopy(pair[1]), windows=windows(), progress=False, **arguments)
