"""Devices and precision, as far as a CPU can test them.

Torch's `meta` device stores no values, but like a GPU it refuses operations with tensors of the CPU.
"""

import numpy as np
import pytest
import torch

from cases import CONV_BATCH_NORM, METHODS, MLP, NETS, ONE_OF_EACH_KIND, learner, tasks
from quickstudy import Engine, Episodes, InputError
from quickstudy.engine.devices import choose_device, list_devices
from quickstudy.engine.precision import autocast_products, scaled_gradient
from quickstudy.tasks.batches import Batches
from quickstudy.tasks.cross import Cross
from quickstudy.tasks.images.family import ImageEpisodes
from quickstudy.tasks.images.preparations import PREPARATIONS
from quickstudy.training.config import build, parse_config
from quickstudy.types import pick

META = torch.device("meta")
READS = ("hypermaml", "hypermaml_eq7", "hypermaml_appendix_b", "mamlpp", "wormhole_literal", "emission_beside_gain")
"""Methods that read a value on the CPU, to skip work that would have no effect: the meta device has no values."""


def test_the_meta_device_refuses_tensors_of_another():
    with pytest.raises(RuntimeError):
        torch.zeros(3, device=META) + torch.zeros(3)


@pytest.mark.parametrize("backend", [pytest.param("loop", marks=pytest.mark.slow), "vmap"])
@pytest.mark.parametrize("method", [m for m in METHODS if m.name not in READS], ids=lambda m: m.name)
def test_everything_happens_on_the_learners_device(method, backend):
    net = CONV_BATCH_NORM if method.name in ONE_OF_EACH_KIND else MLP  # rules make tensors; nets hardly do
    one = learner(method, net).to(META)
    one.engine = Engine(backend)
    batch = tasks(net)  # on the CPU, where all tasks are drawn
    outcome, gradients = one.meta_gradient(batch)
    with torch.no_grad():
        judged = one(batch, evaluating=True)
    found = [outcome.output, outcome.loss, judged.output, *one.observe(batch).values()]
    assert {t.device for t in [*found, *(g for g in gradients if g is not None)]} == {META}
    assert one.engine.backend == backend  # an error of two devices would look like a refusal of vmap


def pictures():
    return np.random.default_rng(0).integers(0, 255, (60, 3, 12, 12), dtype=np.uint8), np.repeat(np.arange(6), 10)


def image_tasks(recipe, rotations):
    images, labels = pictures()
    options = {"ways": 2, "shots": 1, "queries": 2, "names": list("abcdef"), "digest": "0"}
    return ImageEpisodes.by_class(images, labels, recipe=PREPARATIONS[recipe], size=10, rotations=rotations, **options)


@pytest.mark.parametrize("rotations", ["none", "classes", "augment"])
@pytest.mark.parametrize("recipe", list(PREPARATIONS))
def test_pictures_on_a_device_are_prepared_there(recipe, rotations):
    family = image_tasks(recipe, rotations)
    task = family.to_device(META, max_bytes=10**6).source("train", size=2)(0)
    assert task.support.x.device == task.query.x.device == META
    here = family.source("train", size=2)(0)
    assert task.support.x.shape == here.support.x.shape and torch.equal(task.key, here.key)
    assert all(torch.equal(task.about[name], here.about[name]) for name in here.about)


def test_pictures_on_a_device_give_the_same_tasks():
    """With the CPU as the device: the code path is that of a device, the tasks are the same."""
    images, labels = pictures()
    plain = Episodes.by_class(images, labels, ways=2, shots=1, queries=2)
    crossed = Cross(train=plain, test=plain)
    for family in (plain, Batches(plain, size=4), crossed, image_tasks("metaoptnet", "augment")):
        one, other = (
            f.source("train", size=3)(5) for f in (family, family.to_device(torch.device("cpu"), max_bytes=10**6))
        )
        torch.testing.assert_close(other, one, rtol=0, atol=0)
        assert family.describe() == family.to_device(torch.device("cpu"), max_bytes=10**6).describe()


def test_pictures_that_are_too_large_stay_on_the_cpu():
    family = image_tasks("none", "none")
    assert family.to_device(META, max_bytes=100) is family


def test_devices_that_are_not_there_are_refused(monkeypatch):
    assert choose_device("cpu").type == "cpu" and "cpu" in list_devices()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    for name in ("cuda", "cuda:0"):
        with pytest.raises(InputError, match="Devices here: cpu"):
            choose_device(name)
    with pytest.raises(InputError, match="no device 'gpu'"):
        choose_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda:0") and choose_device(
        "cuda:1"
    ) == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="LOCAL_RANK 2. Devices here: cpu, cuda:0, cuda:1"):
        choose_device("auto")


def test_a_configuration_keeps_auto_as_its_device():
    setup = build(
        parse_config(
            {"tasks": "sine", "model": "mlp", "method": "maml"} | {"method": {"name": "maml", "inner_lr": 0.1}}
        )
    )
    assert setup.config.compute.device == "auto"


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients if g is not None])


@pytest.mark.parametrize(("kind", "bound"), [("bf16", 2**-4), ("fp16", 2**-7)])
@pytest.mark.parametrize(
    "method", [m for m in METHODS if m.name in ("maml", "anil", "hypermaml")], ids=lambda m: m.name
)
def test_autocast_rounds_the_same_factors_on_the_loop_and_under_vmap(method, kind, bound):
    one, batch = learner(method, NETS[1]), tasks(NETS[1])
    found = {}
    for backend in ("loop", "vmap"):
        for autocast in (None, kind):
            one.engine = Engine(backend, autocast=autocast)
            outcome, gradients = one.meta_gradient(batch)
            assert one.engine.backend == backend  # not refused
            assert {outcome.output.dtype, flat(gradients).dtype} == {torch.float32}
            found[backend, autocast] = flat(gradients)
    exact = found["loop", None]
    for backend in ("loop", "vmap"):
        error = (found[backend, kind] - exact).norm() / exact.norm()
        # There is a rounding error, of no more than some roundings (2^-9, 2^-12) amplified by five layers.
        assert 2**-16 < error < 4 * bound
    gap = (found["loop", kind] - found["vmap", kind]).norm() / exact.norm()
    assert gap < bound


def test_adapt_rounds_as_evaluation_does():
    method = next(m for m in METHODS if m.name == "maml")
    one, batch = learner(method, NETS[1]), tasks(NETS[1])
    support = pick(batch.support, 0)
    found = {}
    for autocast in (None, "bf16"):
        one.engine = Engine("loop", autocast=autocast)
        with torch.no_grad():
            judged = one.engine.each(lambda given: one.update(given, {}, evaluating=True), batch.support)
        adapted = dict(one.adapt(support).named_parameters())
        assert all(torch.equal(adapted[name], judged[name][0]) for name in one.adapts)
        found[autocast] = adapted
    assert any(not torch.equal(found[None][name], found["bf16"][name]) for name in one.adapts)


def test_double_precision_is_left_alone():
    """So `learner.check`, which compares in float64, compares unrounded functions."""
    a, b = torch.randn(3, 3, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    with autocast_products("bf16"):
        torch.testing.assert_close(a @ b, (a[:, :, None] * b).sum(1), rtol=1e-12, atol=1e-14)
        assert (a.float() @ b.float()).dtype == torch.float32
    assert not torch.equal(a.float() @ b.float(), (a.float().bfloat16() @ b.float().bfloat16()).float())


def test_small_fp16_gradients_survive_and_large_ones_do_not_overflow():
    x = torch.ones(4, 4)
    for size in (1e-7, 1.0, 1e3):
        w = torch.full((4, 4), 1.0, requires_grad=True)
        with autocast_products("fp16"):
            loss = size * (x @ w).sum()
        (g,) = scaled_gradient(loss, [w], "fp16")
        torch.testing.assert_close(g, torch.full((4, 4), 4 * size), rtol=2**-10, atol=0)


def test_an_unknown_precision_is_refused():
    with pytest.raises(InputError, match="no autocast 'fp8'"):
        Engine(autocast="fp8")
