"""On a GPU: the same tasks and, within rounding, the same results as on the CPU."""

import json

import pytest
import torch

from cases import METHODS, NETS, learner, tasks
from quickstudy import Engine, maml
from quickstudy.engine.devices import free_bytes, list_devices
from quickstudy.engine.engine import SplitBatchWarning
from quickstudy.engine.memory import measure_memory
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.models.nets import mlp
from quickstudy.storage.run import Run
from quickstudy.tasks.synthetic.sine import Sine
from quickstudy.training.config import build, load_config
from quickstudy.types import move, pick

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Without TF32, which rounds the factors of single-precision convolutions to 10 bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_loop_and_vmap_are_the_cpu_in_double_precision(double, method, net):
    batch = move(tasks(net), torch.float64)
    one = learner(method, net).double()
    one.engine = Engine("loop")
    here, expected = one.meta_gradient(batch)
    one.to(CUDA)
    for backend in ("loop", "vmap"):
        one.engine = Engine(backend)
        there, gradients = one.meta_gradient(batch)
        assert there.output.device == CUDA
        # Other kernels add in another order, and second order amplifies the rounding; on the CPU it is 1e-12.
        torch.testing.assert_close(move(there, "cpu"), here, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close([g if g is None else g.cpu() for g in gradients], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["sine-mtnet", "digits-maml", "digits-hypermaml", "digits-nearest"])
def test_the_task_list_and_the_metric_are_those_of_the_cpu(name):
    found = {}
    for device in ("cpu", "cuda"):
        setup = build(load_config(name, ["--compute.device", device]))
        found[device] = evaluate(setup.learner, setup.eval_family, setup.metric, n=60)
    assert found["cpu"].hash == found["cuda"].hash
    # In single precision a query near the boundary may change its class: one in 60 tasks of 10 queries or more.
    close = torch.isclose(*(torch.from_numpy(found[device].values) for device in ("cpu", "cuda")), rtol=1e-2, atol=1e-3)
    assert close.double().mean() > 0.9
    assert found["cpu"].spread.mean == pytest.approx(found["cuda"].spread.mean, rel=1e-2)


def test_train_resume_and_evaluate_through_the_command_line(cli, place):
    common = ("--compute.device", "cuda", "--train.validate_every", "10", "--train.checkpoint_every", "10")
    assert cli("train", "sine.yaml", *common, "--out", "whole").code == 0
    assert cli("train", "sine.yaml", *common, "--train.steps", "10", "--out", "half").code == 0
    half = Run.open("half")
    text = (half.path / "config.yaml").read_text().replace("steps: 10\n", "steps: 20\n", 1)
    (half.path / "config.yaml").write_text(text)
    assert cli("train", "--resume", "half").code == 0
    one, other = (Run.open(name).load("last") for name in ("whole", "half"))
    assert all(tensor.device.type == "cpu" for tensor in one.tensors.values())
    for name, tensor in one.tensors.items():
        if name.startswith("model."):
            torch.testing.assert_close(other.tensors[name], tensor, rtol=1e-5, atol=1e-6)
    on = {
        device: json.loads(cli("evaluate", "whole", "--json", "--compute.device", device).out)
        for device in ("cuda", "cpu")
    }
    assert on["cuda"]["hash"] == on["cpu"]["hash"] and on["cuda"]["mean"] == pytest.approx(on["cpu"]["mean"], rel=1e-3)


def test_auto_is_the_gpu_and_info_shows_it(cli):
    setup = build(load_config("sine-maml"))
    assert setup.learner.device == CUDA and setup.config.compute.device == "auto"
    assert torch.cuda.get_device_name(CUDA) in cli("info").out and "cuda:0" in list_devices()


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_autocast_moves_the_gradient_by_no_more_than_its_rounding(kind):
    batch = build(load_config("digits-maml")).family.source("train", size=4)(0)
    one = build(load_config("digits-maml", ["--compute.device", "cuda"])).learner
    found = {}
    for autocast in (None, kind):
        one.engine = Engine("vmap", autocast=autocast)
        outcome, gradients = one.meta_gradient(batch)
        assert outcome.output.dtype == torch.float32 and one.engine.backend == "vmap"
        found[autocast] = torch.cat([g.flatten() for g in gradients if g is not None])
    error = (found[kind] - found[None]).norm() / found[None].norm()
    assert 0 < error < {"bf16": 0.25, "fp16": 0.05}[kind]


def test_pictures_are_stored_on_the_device():
    setup = build(load_config("digits-maml", ["--compute.device", "cuda"]))
    there = setup.family.source("train", size=3)(7)
    assert there.support.x.device == CUDA
    here = build(load_config("digits-maml", ["--compute.device", "cpu"])).family.source("train", size=3)(7)
    torch.testing.assert_close(there.support.x.cpu(), here.support.x)
    assert torch.equal(there.key, here.key)


def test_chunks_fit_the_memory_that_may_be_used():
    one = maml(mlp(1, 1, hidden=(40, 40)), inner_lr=0.01, inner_steps=5, loss="mse").to(CUDA)
    batch = Sine().source("train", size=512)(0)
    one.engine = Engine("vmap")
    outcome, _gradients = one.meta_gradient(batch)
    torch.cuda.reset_peak_memory_stats(CUDA)
    before = torch.cuda.memory_allocated(CUDA)
    one.meta_gradient(batch)
    whole = torch.cuda.max_memory_allocated(CUDA) - before
    # The prediction from two tasks agrees with the device's own counter, which rounds each tensor up to 512 bytes.
    assert measure_memory(lambda n: one.meta_gradient(pick(batch, slice(n)))).of(512) == pytest.approx(whole, rel=0.2)
    one.engine = Engine("vmap", memory=whole // 4)
    with pytest.warns(SplitBatchWarning):
        parts, _cut = one.meta_gradient(batch)
    torch.cuda.reset_peak_memory_stats(CUDA)
    one.meta_gradient(batch)
    assert torch.cuda.max_memory_allocated(CUDA) - before < whole // 2
    torch.testing.assert_close(parts, outcome, rtol=1e-4, atol=1e-4)


def test_running_out_names_the_settings(cli):
    queries = free_bytes(CUDA) // 8  # two numbers of four bytes each fill the device, and the activations are more
    done = cli("train", "sine.yaml", "--compute.device", "cuda", "--tasks.queries", str(queries), "--out", "run")
    assert done.code == 1 and "compute.chunk" in done.err
