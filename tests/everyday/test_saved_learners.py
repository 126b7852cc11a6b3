"""A learner leaves its machine: saved, packed, and loaded where neither its data nor its run are."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
import yaml

import quickstudy as qs
from drawn import METHODS, draw, settings, train_run
from quickstudy.errors import InputError, RunError
from quickstudy.everyday.packing import pack_run
from quickstudy.models.nets import conv_net
from quickstudy.storage.run import Run
from quickstudy.training.restore import restore

SUPPORT = qs.Examples(torch.rand(10, 1, 14, 14), torch.arange(5).repeat(2))
NEW = torch.rand(7, 1, 14, 14)


def outputs(learner):
    return learner.adapt(SUPPORT)(NEW)


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_learner_gives_the_same_bits(trained, tmp_path, method):
    learner = qs.load(trained(method))
    learner.save(tmp_path / "l")
    again = qs.load(tmp_path / "l")
    assert torch.equal(outputs(again), outputs(learner))
    assert again.blueprint == learner.blueprint
    again.save(tmp_path / "l")  # over the old one
    assert torch.equal(outputs(qs.open(tmp_path / "l")), outputs(learner))


def test_in_another_process_too(trained, tmp_path):
    learner = qs.load(trained("maml"))
    learner.save(tmp_path / "l")
    torch.save((tuple(SUPPORT), NEW), tmp_path / "x.pt")
    script = (
        "import sys, torch, quickstudy as qs; torch.set_num_threads(1); (x, y), new = torch.load(sys.argv[2]); "
        "print(qs.load(sys.argv[1]).adapt(qs.Examples(x, y))(new).tolist())"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "l"), str(tmp_path / "x.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout) == outputs(learner).tolist()


def test_a_run_is_loaded_when_its_pictures_have_gone(tmp_path):
    pictures = draw(tmp_path / "pictures", dict.fromkeys("abcdefghijklmno", 3))
    tasks = {"name": "folder", "path": str(pictures), "split": "class", "ways": 2, "shots": 1, "queries": 1, "size": 14}
    run = train_run(tmp_path / "run", settings("protonet", tasks={**tasks, "channels": 1, "ink": "dark"}))
    setup, _ = restore(Run.open(run))
    before = setup.learner.adapt(qs.Examples(SUPPORT.x[:4], torch.tensor([0, 1, 0, 1])))(NEW)
    shutil.rmtree(pictures)
    learner = qs.load(run)
    assert torch.equal(learner.adapt(qs.Examples(SUPPORT.x[:4], torch.tensor([0, 1, 0, 1])))(NEW), before)
    assert learner.blueprint == setup.learner.blueprint
    packed = pack_run(run, tmp_path / "packed")
    assert "nothing was calibrated" in packed.notes[-1]
    assert learner.blueprint["trained"]["step"] == 4


def test_a_run_of_an_older_version_is_still_loaded_with_its_tasks(moved_run):
    run = Run.open(moved_run("protonet"))
    with run.writing():
        for name in run.checkpoints():
            tensors, state = run.load(name)
            run.save(name, tensors, {key: value for key, value in state.items() if key != "interface"})
    assert torch.equal(outputs(qs.load(run.path)), outputs(qs.load(run.path, "last")))


def test_a_checkpoint_with_another_interface_is_refused(moved_run):
    run = Run.open(moved_run("protonet"))
    tensors, state = run.load("last")
    with run.writing():
        run.save("last", tensors, state | {"interface": {"inputs": "x"}})
    with pytest.raises(RunError, match="its interface has another shape"):
        qs.load(run.path, "last")


def test_settings_that_a_schedule_moved_are_in_the_file(tmp_path):
    ramp = {"rule.weights": {"kind": "ramp", "start": 1, "end": 3, "before": [0, 1], "after": [1, 0]}}
    given = settings("hypermaml")
    run = train_run(tmp_path / "run", {**given, "train": {**given["train"], "schedules": ramp}})
    learner = qs.load(run)
    learner.get_buffer("rule.weights").copy_(torch.tensor([0.25, 0.75]))
    learner.save(tmp_path / "l")
    assert qs.load(tmp_path / "l").get_buffer("rule.weights").tolist() == [0.25, 0.75]


def test_a_place_that_holds_something_else_is_refused_before_anything_is_measured(trained, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"is not empty \(it has mine.txt\)"):
        pack_run(trained("maml"), tmp_path, episodes=10**9)  # whose calibrations would take years
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_packing_changes_the_norms_measures_it_and_calibrates(trained, tmp_path):
    packed = pack_run(trained("protonet"), tmp_path / "p", episodes=5)
    blueprint = packed.blueprint
    assert (blueprint.method.options["norms"], blueprint.trained_norms) == ("support", "batch")
    assert "it serves with statistics of the support set" in packed.notes[0]
    assert "the accuracy changes by" in blueprint.norms_cost and "on 10 validation tasks" in blueprint.norms_cost
    assert {(one.ways, one.shots) for one in blueprint.calibrations} >= {(5, 1), (5, 5), (20, 1)}
    served = qs.load(tmp_path / "p")
    assert "not transductive" in served.norms
    kept = pack_run(trained("protonet"), tmp_path / "k", norms="trained", episodes=5)
    assert kept.blueprint.trained_norms is None and kept.blueprint.norms_cost is None
    assert torch.equal(outputs(qs.load(tmp_path / "k")), outputs(qs.load(trained("protonet"))))


def test_per_step_norms_are_served_as_they_were_trained_or_not_at_all(tmp_path):
    given = settings("maml")
    run = train_run(tmp_path / "run", {**given, "method": {**given["method"], "norms": "per_step"}})
    with pytest.raises(InputError, match="trained with norms='per_step'"):
        pack_run(run, tmp_path / "p")
    pack_run(run, tmp_path / "p", norms="trained", episodes=2)
    assert torch.equal(outputs(qs.load(tmp_path / "p")), outputs(qs.load(run)))


OWN = """
from torch import nn

from quickstudy import METHODS
from quickstudy.models.nets import conv_net
from quickstudy.tasks import FAMILIES

open("was-run", "a").close()


def learner():
    return METHODS["protonet"](conv_net((1, 14, 14), 5, filters=4, blocks=2), 5)


def net(inputs, outputs):
    return conv_net(inputs, outputs, filters=4, blocks=2)


def pictures():
    return FAMILIES["drawings"](split="lake", ways=5, shots=1, queries=3, size=14)


def line(inputs, outputs):
    return nn.Linear(inputs[0], outputs)


def waves():
    return FAMILIES["sine"]()


def number():
    return 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's own in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_own", raising=False)
    (tmp_path / "my_own.py").write_text(OWN)
    return tmp_path


def test_a_learner_made_by_hand_is_saved_with_the_function_that_makes_it(own):
    torch.manual_seed(0)
    learner = qs.METHODS["protonet"](conv_net((1, 14, 14), 5, filters=4, blocks=2), 5).eval()
    with pytest.raises(InputError, match="was made by hand.*factory='package.module:function'"):
        learner.save(own / "l")
    learner.save(own / "l", factory="my_own:learner")
    assert torch.equal(outputs(qs.load(own / "l")), outputs(learner))  # this user made it, so it needs no trust
    learner.save(own / "l", factory="my_own:number")
    with pytest.raises(InputError, match="gave a int; a Learner is needed"):
        qs.load(own / "l")


def test_code_of_others_runs_only_if_it_is_trusted(own, monkeypatch):
    given = settings("protonet", model={"name": "my_own:net"})
    qs.load(train_run(own / "run", given)).save(own / "l")
    expected = outputs(qs.load(own / "l"))
    monkeypatch.setenv("QUICKSTUDY_STATE", str(own / "another user"))
    (own / "was-run").unlink()
    monkeypatch.delitem(sys.modules, "my_own")
    for path in ("l", "run"):
        with pytest.raises(InputError, match=r"not made by you here.*my_own:net.*--trust-code"):
            qs.load(own / path)
    assert not (own / "was-run").exists()
    assert torch.equal(outputs(qs.load(own / "l", trust=True)), expected)


def test_what_was_taught_to_a_learner_of_ones_own_code_opens_again(own):
    """Not only where the tasks are the library's: there the run has been remembered under the same name."""
    run = train_run(own / "run", settings("protonet", tasks={"name": "my_own:pictures"}, model={"name": "my_own:net"}))
    labels = SUPPORT.y.tolist()
    classifier = qs.FewShotClassifier(run, norms="trained", episodes=0).fit(SUPPORT.x, labels)
    classifier.save(own / "c")
    assert qs.open(own / "c").predict(NEW).tolist() == classifier.predict(NEW).tolist()
    given = settings("maml", tasks={"name": "my_own:waves"}, model={"name": "my_own:line"})
    regressor = qs.FewShotRegressor(train_run(own / "line", given), episodes=0).fit([[0.0], [1.0]], [0.0, 1.0])
    regressor.save(own / "r")
    assert qs.open(own / "r").predict([[0.5]]).tolist() == regressor.predict([[0.5]]).tolist()


def change(**changes):
    def damage(config):
        config["learner"].update(changes)

    return damage


DAMAGES = {
    "another method": (change(method={"name": "maml"}), "belongs to another method or model"),
    "no method": (change(method=None), "does not say which method"),
    "unknown method": (change(method={"name": "mamal"}), "There is no method 'mamal'"),
    "other shapes": (
        change(tasks={"inputs": [3, 14, 14], "outputs": 5, "train_outputs": 5, "loss": "cross_entropy"}),
        "shape",
    ),
    "other engine": (change(compute={"speed": 3}), "other settings than this version"),
    "more": (change(more=3), "does not describe a learner"),
    "code": (change(factory="os:getcwd"), "would run code that is not quickstudy's: factory is os:getcwd"),
    "no learner": (lambda config: config.pop("learner"), "not a learner"),
    "another kind": (lambda config: config.update(kind="classifier"), "holds a classifier, not a learner"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_changed_description_is_refused_in_one_line(trained, tmp_path, damage, message):
    qs.load(trained("protonet")).save(tmp_path / "l")
    config = json.loads((tmp_path / "l" / "config.json").read_text())
    damage(config)
    (tmp_path / "l" / "config.json").write_text(json.dumps(config))
    with pytest.raises((InputError, RunError), match=message) as caught:
        qs.load(tmp_path / "l")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_is_of_a_run_only(trained, tmp_path):
    qs.load(trained("protonet")).save(tmp_path / "l")
    with pytest.raises(InputError, match="has no checkpoint `last`"):
        qs.load(tmp_path / "l", "last")


def test_rebuilding_leaves_the_random_generator_as_it_was(trained, tmp_path):
    qs.load(trained("protonet")).save(tmp_path / "l")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    qs.load(tmp_path / "l")
    assert torch.equal(torch.rand(2), expected)


def test_nothing_of_the_training_data_is_in_the_file(trained, tmp_path):
    qs.load(trained("protonet")).save(tmp_path / "l")
    text = (tmp_path / "l" / "config.json").read_text()
    names = yaml.safe_load(text)["learner"]["trained"]["tasks"]
    assert "names" not in names and str(tmp_path.parent) not in text
