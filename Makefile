# Both user commands do all their own set-up: `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
BIN := .venv/bin

MINUTES ?= 60

.PHONY: demo test test-slow smoke fuzz drawings calibrations models lint format clean

demo: .venv/ready
	$(BIN)/quickstudy demo

test: lint
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal

# The laws on every net, and every method compiled on each: about an hour on two cores, nearly all of it the compiler's.
test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal

# Every table and figure of the papers, just far enough to see that it comes out; those whose pictures are here.
smoke: .venv/ready
	rm -rf build/smoke
	for paper in mtnet wormhole hypermaml beyond; do \
		$(BIN)/quickstudy reproduce $$paper all --scale smoke --workers 2 --out build/smoke || exit 1; \
	done

# Damaged inputs of every kind, new ones each time. What breaks the law is kept in build/fuzz.
fuzz: .venv/ready
	$(BIN)/python tests/fuzz/fuzzing.py $(MINUTES)

# The drawings that come with the package, made anew from Lake's archives: the same bytes.
drawings: .venv/ready
	QUICKSTUDY_DATA=$${QUICKSTUDY_DATA:-../shared/data} \
		$(BIN)/python -c "from quickstudy.tasks.images.drawings import write_pack; write_pack()"

# The calibrations that come with the encoder `photos`, measured anew: needs the extra photos, cub and mini_imagenet.
calibrations: .venv/ready
	QUICKSTUDY_DATA=$${QUICKSTUDY_DATA:-../shared/data} \
		$(BIN)/python -c "from quickstudy.everyday.measure_encoders import measure_photos; print(measure_photos())"

# The learner that comes with the package, trained anew: forty minutes. What was stopped goes on where it was.
models: .venv/ready
	[ -e build/models/drawings/checkpoints ] || $(BIN)/quickstudy train drawings-model --no-tensorboard --out build/models/drawings
	$(BIN)/quickstudy train --resume build/models/drawings
	$(BIN)/quickstudy pack build/models/drawings src/quickstudy/everyday/shipped/drawings

lint: .venv/ready
	$(BIN)/ruff format --check src tests docs examples
	$(BIN)/ruff check src tests docs examples
	$(BIN)/mypy

format: .venv/ready
	$(BIN)/ruff format src tests docs examples
	$(BIN)/ruff check --fix src tests docs examples

# The stamp is written last: a set-up that was interrupted is done again.
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
