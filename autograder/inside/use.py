"""Uses of an answer: with arguments of its own, once or in turns with a second one, or while kernels are watched."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn

from autograder.inside.case import HELD, STRIDED, Case
from autograder.inside.observe import observe
from autograder.inside.outcome import equal
from autograder.inside.recipes import RECIPES
from autograder.inside.weigh import weight


class Use:
    """One use of an answer as a case says, with arguments of its own."""

    def __init__(self, case: Case, answer: Callable, evaluated: bool = False) -> None:
        self.case, self.answer = case, answer
        self.args, self.kwargs = _build(case)
        if evaluated and case.probe == STRIDED:
            for module in _modules([self.args, self.kwargs]):
                module.eval()
        self.steps = [(name, _build(Case(tuple(given), probe=case.probe))[0]) for name, *given in case.calls]
        self.results: list = []  # what the answer returned, and
        self.values: list = []  # how that was at once: a later call may change it
        self.arguments = {**dict(enumerate(self.args)), **self.kwargs}
        self._models = {key: [(m, dict(m.named_parameters())) for m in _modules(a)] for key, a in self.arguments.items()}
        for method, given in self.steps:
            self.arguments.setdefault(of_method(method), []).append(given)
        for key in case.gradients:
            argument = self.arguments[key]
            if isinstance(argument, Tensor):
                argument.requires_grad_()

    def __iter__(self) -> Iterator[None]:
        """Make its calls, one at a time."""
        if self.steps:
            thing = self.answer(*self.args, **self.kwargs)
            for name, given in self.steps:
                if name == HELD:
                    self._keep(_held(thing, *given))
                else:
                    self._keep((self.args[name] if isinstance(name, int) else getattr(thing, name))(*given))
                yield
        else:
            for _ in range(self.case.times):
                self._keep(self.answer(*self.args, **self.kwargs))
                yield

    def _keep(self, result) -> None:
        self.results.append(result)
        self.values.append(observe(result))

    @property
    def value(self):
        """What the answer gave: a list of that where it was called more than once."""
        return self._whole(self.values)

    @property
    def kept(self):
        """The same as it is now."""
        return self._whole(list(map(observe, self.results)))

    def _whole(self, values: list):
        return values if self.steps or self.case.times > 1 else values[0]

    def after(self) -> dict:
        """The arguments as they are now."""
        return {key: observe(argument) for key, argument in self.arguments.items()}

    def settings(self) -> dict:
        """What state and values do not say of modules among the arguments, and in what was returned."""
        of_arguments = {key: [_settings(model, was) for model, was in models] for key, models in self._models.items() if models}
        of_results = [_settings(module) for module in _modules(self.results)]
        return of_arguments | ({"result": of_results} if of_results else {})


def used(use: Use) -> dict:
    for _ in use:
        pass
    return {"value": use.value, "after": use.after(), "gradients": _gradients(use)}


def probed(first: Use, second: Use) -> dict:
    """Two uses in turns: what one does may not reach the other, nor the first results, and results are not the arguments.

    `again` holds what the `second` gave, the first results `kept` until the end, the second's `arguments` before and after all
    that it returned is `overwritten`, and of both the `settings` of modules as they were `found` and left.
    """
    found = first.settings(), second.settings()
    with contextlib.nullcontext() if first.case.watched is None else _watch():
        for _ in zip_longest(first, second):
            pass
    seen = {"value": first.value, "after": first.after()}
    again = {"second": second.value, "arguments": second.after()}
    again |= {"found": list(found), "settings": [first.settings(), second.settings()]}
    _overwrite(second.results)
    return seen | {"again": again | {"kept": first.kept, "overwritten": second.after()}}


def watched(use: Use) -> dict:
    """What a use gives, and what kernels read and write for that."""
    case, args = use.case, use.args
    with _watch() as kernels:
        seen = used(use)
    seen["traffic"] = traffic(kernels, args, case.watched)
    if case.veiled:
        again = Use(case, use.answer)
        with _watch([again.args[i] for i in case.watched]):
            seen["traffic"]["again"] = int(equal(use.value, used(again)["value"])), 1
    return seen


def away(use: Use, ask: Callable[[dict], dict]) -> dict:
    """What a use gives whose kernels run elsewhere, see `launches`; who runs them knows what they read and write."""
    from autograder.inside.launches import sent

    with sent(use.args, ask), _nothing_is_zero_by_chance():
        return used(use)


def traffic(kernels, args: Sequence, watched: Sequence[int]) -> dict:
    """What kernels read and wrote, as `Outcome.traffic` says it.

    Args:
        kernels: what the watcher has seen.
        args: a case's arguments, as kernels were given them.
        watched: positions of those whose rows count.

    Returns:
        Counts of bytes.
    """
    given = {argument.untyped_storage().data_ptr() for argument in args if isinstance(argument, Tensor)}
    counts = {i: kernels.of(args[i]).by_row(len(args[i])) for i in watched}
    own = [memory for memory in kernels.memories if memory.start not in given]
    counts["elsewhere"] = sum(memory.bytes_read for memory in own), sum(memory.bytes_loaded for memory in own)
    written = sum(memory.bytes_written for memory in kernels.memories)
    counts["written"] = written, sum(int(memory.writes.sum()) for memory in kernels.memories)
    counts["met"] = sum(memory.bytes_met for memory in kernels.memories), written
    return counts


def _modules(value) -> list[nn.Module]:
    """The modules of a value, however deep, but for parts of others."""
    match value:
        case nn.Module():
            return [value]
        case dict():
            return _modules(list(value.values()))
        case list() | tuple():
            return [module for entry in value for module in _modules(entry)]
    return []


def _settings(module: nn.Module, was: dict[str, nn.Parameter] | None = None) -> dict[str, object]:
    """What a state does not say of a module; of an argument also its mode, gradients, and if it has other parameters now."""
    parameters, modules = dict(module.named_parameters()), dict(module.named_modules())
    hooked = [name for name, part in modules.items() if any(getattr(part, kind, None) for kind in _HOOKS)]
    hooked += [name for name, parameter in parameters.items() if parameter._backward_hooks]
    settings: dict = {"frozen parameters": _names(name for name, p in parameters.items() if not p.requires_grad)}
    settings["hooks"] = _names(hooked)
    if was is not None:
        settings["modules in evaluation mode"] = _names(name for name, part in modules.items() if not part.training)
        settings["parameters that were replaced"] = _names(name for name, p in was.items() if parameters.get(name) is not p)
        settings["gradients"] = {name: observe(parameter.grad) for name, parameter in parameters.items()}
    return settings


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _names(which: Iterable[str]) -> str:
    """Names of parameters or modules in one text; that of a whole model is empty."""
    return ", ".join(name or "the model" for name in which) or "none"


def _gradients(use: Use) -> dict:
    """The gradients of a sum of all that was returned, weighted so that no entry can take another's place."""
    if not use.case.gradients:
        return {}
    results = [leaf for leaf in _leaves(use.results) if leaf.requires_grad]
    asked = {key: use.arguments[key] for key in use.case.gradients}
    wanted = [part for argument in asked.values() for part in _leaves(argument)]
    total = sum((leaf * torch.arange(1.0, leaf.numel() + 1).cos().view(leaf.shape).to(leaf.dtype)).sum() for leaf in results)
    given = iter(torch.autograd.grad(total, wanted, allow_unused=True) if results else [None] * len(wanted))
    found = {key: [observe(next(given)) for _ in _leaves(argument)] for key, argument in asked.items()}
    return {key: found[key] if isinstance(asked[key], nn.Module) else found[key][0] for key in asked}


def _leaves(value) -> list[Tensor]:
    """The floating-point tensors of a value, and the parameters of modules in it."""
    match value:
        case Tensor():
            return [value] if value.is_floating_point() else []
        case nn.Module():
            return list(value.parameters())
        case dict():
            return _leaves(list(value.values()))
        case list() | tuple():
            return [leaf for entry in value for leaf in _leaves(entry)]
    return []


def of_method(method: str) -> str:
    """The name of what a method is given, in `Outcome.after`; continues "the argument"."""
    return f"of {method}()"


def _held(thing, most: int) -> str:
    """Whether all that an object can reach takes so many bytes at most."""
    return f"{'at most' if weight(thing) <= most else 'more than'} {most} bytes"


def _overwrite(result) -> None:
    """Zeros in all tensors of a result: what shares their memory changes too."""
    match result:
        case Tensor():
            with contextlib.suppress(RuntimeError):  # some cannot be written to, and so do no harm
                result.detach().zero_()
        case nn.Module():
            _overwrite(result.state_dict())
        case dict():
            _overwrite(list(result.values()))
        case list() | tuple():
            for entry in result:
                _overwrite(entry)


@contextlib.contextmanager
def _watch(veiled: list[Tensor] | None = None) -> Iterator:
    from autograder.inside.sanitizer import watch  # imports triton, which takes a second

    with watch(veiled or []) as kernels, _nothing_is_zero_by_chance():
        yield kernels


@contextlib.contextmanager
def _nothing_is_zero_by_chance() -> Iterator[None]:
    """Fill new tensors that nobody has filled with NaN: on a GPU they hold what was there before."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    set_mode = torch._C._set_deterministic_algorithms  # the public function also imports a compiler: seconds, in every snapshot
    set_mode(True, warn_only=True)
    try:
        yield
    finally:
        set_mode(before[0], warn_only=before[1])


def _build(case: Case) -> tuple[list, dict]:
    built: list = []
    for argument in case.args:
        built.append(_fresh(argument, built, case.probe))
    return built, {name: _fresh(argument, built, case.probe) for name, argument in case.kwargs.items()}


def _fresh(value, built: list, probe: str):
    match value:
        case Tensor():
            return _strided(value) if probe == STRIDED else value.clone(memory_format=torch.preserve_format)
        case list() | tuple():
            return type(value)(_fresh(entry, built, probe) for entry in value)
        case dict():
            return {key: _fresh(entry, built, probe) for key, entry in value.items()}
    made = value.build(built) if isinstance(value, RECIPES) else value
    return _lived_in(made) if probe == STRIDED and isinstance(made, nn.Module) else made


def _strided(tensor: Tensor) -> Tensor:
    """A copy whose entries lie every second place, columns before rows."""
    if tensor.ndim == 0:
        return tensor.clone()
    turned = tensor.mT if tensor.ndim > 1 else tensor
    spread = torch.zeros(*turned.shape, 2, dtype=tensor.dtype)[..., 0].copy_(turned)
    return spread.mT if tensor.ndim > 1 else spread


def _lived_in(module: nn.Module) -> nn.Module:
    """A module as it is found in use: with gradients of a training before."""
    for parameter in module.parameters():
        if parameter.is_floating_point() and parameter.grad is None:
            parameter.grad = torch.full_like(parameter, 0.25)
    return module
