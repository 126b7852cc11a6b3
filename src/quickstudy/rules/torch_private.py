"""What this package uses of torch that torch does not document, in one place.

Every entry says why it is needed. All were checked on torch 2.13; to move to a newer version, begin here.
`torch._dynamo`, whose import takes longer than that of torch itself, is imported by the functions that need it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

# Weight norm and attention by their fused kernel and their plain formula: see `engine.second_derivatives`.
from torch import _scaled_dot_product_attention_math as _attention_and_weights
from torch import _weight_norm as fused_weight_norm

# The key-value store by which workers meet: documented, but missing from `torch.distributed.__all__`. `rendezvous`
# gives the store that the environment describes, which `init_process_group` makes too, but keeps to itself.
from torch.distributed import PrefixStore, Store, TCPStore, rendezvous  # type: ignore[attr-defined]

# The common class of the batch norms for one, two and three axes, and that of the instance norms: neither is public.
from torch.nn.modules.batchnorm import _BatchNorm as AnyBatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm as AnyInstanceNorm

# The modes of Python code that are active in this thread, and by which parametrized parameters are kept.
from torch.nn.utils import parametrize

# Spectral norm as a parametrization, whose class is private, and as a hook, whose module has the name of a function.
from torch.nn.utils.parametrizations import _SpectralNorm as SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm as SpectralNormHook
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

# Sees every operator below autograd and `vmap`, where memory is allocated; no documented hook is called there.
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack as dispatch_modes

# The tensors in a task, an outcome or the arguments of a call. The documented module came after torch 2.6.
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_leaves, tree_map

__all__ = [
    "AnyBatchNorm",
    "AnyInstanceNorm",
    "PrefixStore",
    "SpectralNorm",
    "SpectralNormHook",
    "Store",
    "TCPStore",
    "TorchDispatchMode",
    "axes_of_one_example",
    "compiler_errors",
    "convolve",
    "count_changes",
    "dispatch_modes",
    "function_modes",
    "fused_weight_norm",
    "has_hooks",
    "is_tracing",
    "is_transformed",
    "leave_fast_path",
    "math_attention",
    "named_leaves",
    "outside_transforms",
    "recompile_limit",
    "rendezvous",
    "run_checkpoints_again",
    "stand_in_for",
    "tree_leaves",
    "tree_map",
    "without_kept_parameters",
]


def outside_transforms() -> bool:
    """Whether no transform of `torch.func` is active: some kernels are wrong inside one, and torch has no test."""
    return not torch.compiler.is_compiling() and torch._C._functorch.maybe_current_level() is None


def is_transformed(value: Tensor) -> bool:
    """Whether a tensor is one of a transform of `torch.func`, which has no memory of its own."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(value))


def is_tracing() -> bool:
    """Whether the code is run to be recorded, by the compiler, `torch.export` or `torch.jit.trace`.

    Sizes are left open then, so nothing may be decided by the number of examples. The public test has no type.
    """
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def compiler_errors() -> tuple[type[Exception], ...]:
    """What `torch.compile` raises when it refuses a function: torch documents no class for it."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    return TorchDynamoException, FailOnRecompileLimitHit


def recompile_limit(versions: int) -> AbstractContextManager[Any]:
    """Allow this many compiled versions of one function: no public setting does."""
    from torch._dynamo import config

    patched: AbstractContextManager[Any] = config.patch(recompile_limit=versions)
    return patched


def named_leaves(name: str, tree: object) -> list[tuple[str, Any]]:
    """What a tree of tuples, lists and dictionaries holds, each with its place.

    >>> named_leaves("x", {"words": 1, "pair": (2, 3)})
    [("x['words']", 1), ("x['pair'][0]", 2), ("x['pair'][1]", 3)]
    """
    leaves, _ = tree_flatten_with_path(tree)
    return [(f"{name}{keystr(path)}", leaf) for path, leaf in leaves]


def stand_in_for(module: nn.Module, original: nn.Module) -> None:
    """Give a module the parts of another, so that paths into it stay the same: no public way adds shared parts.

    Parameters and buffers are shared also when they are replaced later, as `Module.to` does.
    """
    module._parameters, module._buffers = original._parameters, original._buffers
    module._non_persistent_buffers_set = original._non_persistent_buffers_set
    module._modules = dict(original._modules)


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module does more than its forward: torch has no public test."""
    own = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(own or "forward" in module.__dict__ or torch.nn.modules.module._has_any_global_hook())  # type: ignore[no-untyped-call]


def convolve(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution layer with another weight and bias, in any padding mode: its public forward takes neither."""
    output: Tensor = layer._conv_forward(x, weight, bias)
    return output


def function_modes() -> list[TorchFunctionMode]:
    """The modes for functions that are active in this thread."""
    return list(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]


def count_changes(value: Tensor) -> int:
    """How often a tensor was changed in place; what was made in inference mode does not count it."""
    return 0 if value.is_inference() else value._version


def axes_of_one_example(norm: AnyInstanceNorm) -> int:
    """How many axes one example of an instance norm has: such a norm also takes one example without a batch axis."""
    return int(norm._get_no_batch_dim())  # type: ignore[no-untyped-call]


def leave_fast_path(layer: nn.TransformerEncoderLayer) -> None:
    """Make an encoder layer call its sublayers, whose weights its fast path reads itself: it has no public switch."""
    layer.activation_relu_or_gelu = 0


def math_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` by its plain formula: the public choice of a kernel is one for all threads."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
    output: Tensor = _attention_and_weights(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )[0]
    return output


@contextmanager
def without_kept_parameters() -> Iterator[None]:
    """Leave `torch.nn.utils.parametrize.cached`: it keeps values by the identity of a module, which twins use again."""
    depth = parametrize._cache_enabled
    if not depth:
        yield
        return
    parametrize._cache_enabled -= depth
    try:
        yield
    finally:
        parametrize._cache_enabled += depth


def run_checkpoints_again(prepare: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Let the backward pass run a checkpointed block as `prepare` makes it in the forward pass, in any thread.

    torch runs the block again without the modes of Python code that it had, and documents nothing that restores them.
    """
    begin = torch.utils.checkpoint._checkpoint_without_reentrant_generator

    def begin_prepared(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return begin(prepare(function), *args, **kwargs)

    torch.utils.checkpoint._checkpoint_without_reentrant_generator = begin_prepared  # type: ignore[assignment]
