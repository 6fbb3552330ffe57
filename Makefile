# SPDX-License-Identifier: MIT
# `make` alone lists the targets. Each makes the virtual environment it needs.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
include Test_package_and_local/python.mk

# Messages hold more than ASCII, whatever the locale of the machine that tests.
export PYTHONUTF8 := 1
# Two processes: half of the time of most tests is one thread tracing graphs. Files stay whole, for
# what a module shares, and in their order: the quick ones of the volumes come last and even it out.
pytest_flags ?= -n 2 --dist loadfile --no-loadscope-reorder
# Further flags of `make weights`, such as --batch_size 16 --levels_gen 96,160,192,224 on a GPU.
weights_flags ?=
run := weights_run/cortex

# The original's targets: the package installed as users do, on the images of that folder.
package_targets := create_venv_and_install_SegSRGAN test_job_model_help \
  test_job_model_on_image_absolute test_job_model_on_image_relatif test_seg test_training \
  remove_result

.PHONY: help demo demo_supermask docs install test test_slow test_jax lint check weights weights_brain weights_supermask clean remove_venv \
  $(package_targets)

help: ## list these targets
	@awk -F ':.*## ' '/^[A-Za-z_-]+:.*## / {printf "%-34s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "In Test_package_and_local, with the built package in an environment of its own:"
	@$(MAKE) --no-print-directory -C Test_package_and_local help | grep -v -e '^help' -e '^remove_venv'

demo: $(venv)/.demo ## a real anisotropic MRI becomes an isotropic image and a segmentation (minutes)
	$(bin)/python Test_package_and_local/demo.py

demo_supermask: $(venv)/.demo ## three stacks of a moving patient become one mask (minutes); data=FOLDER of real ones
	$(bin)/python Test_package_and_local/demo_supermask.py $(if $(data),--data "$(data)")

install: $(venv)/.install ## the commands of this clone in a virtual environment
	@echo "Commands: $(CURDIR)/$(bin)/{job_model.py,SegSRGAN_training.py,segsrgan,supermask-*}"

docs: $(venv)/.docs ## the documentation as a site, in site/index.html
	NO_MKDOCS_2_WARNING=1 $(bin)/python -m mkdocs build

test: $(venv)/.dev ## the default suite: the tutorial, and all tests but the slow ones and those for GPUs
	$(bin)/python -m pytest --nbmake --nbmake-timeout 900 $(pytest_flags) docs/tutorial.ipynb tests

test_slow: $(venv)/.dev ## the slow tests
	$(bin)/python -m pytest -m "slow and not gpu" $(pytest_flags)

test_jax: $(venv)/.dev ## the tests of the networks on Keras' JAX backend
	KERAS_BACKEND=jax $(bin)/python -m pytest -n 2 --dist worksteal \
	  $(addprefix tests/networks/test_,layers.py spatial.py generator.py)

lint: $(venv)/.dev ## ruff, its format check, and the import rules
	$(bin)/python -m ruff check .
	$(bin)/python -m ruff format --check .
	$(bin)/lint-imports
	$(bin)/python -m pytest --quiet tests/test_architecture.py

check: lint test ## lint and the default suite: what a change must pass

weights: $(venv)/.dev ## train and score the weights that ship, from data=FOLDER (3 to 9 hours on 2 cores)
	@test -n "$(data)" || { echo "make weights data=FOLDER; see weights/README.md"; exit 2; }
	$(bin)/segsrgan train --config weights/recipes/cortex.toml --base_path "$(data)" --resume \
	  --snapshot_folder $(run) --dice_file $(run)/dice.csv --mse_file $(run)/mse.csv $(weights_flags)
	@# Then a little with patches of the default size of applying: means and deviations are theirs.
	$(bin)/segsrgan train --config weights/recipes/cortex.toml --base_path "$(data)" --resume \
	  --snapshot_folder $(run)_128 --dice_file $(run)_128/dice.csv --mse_file $(run)_128/mse.csv \
	  --weights "$$(ls -t $(run)/SegSRGAN_epoch_* | head -1)" --zero_head False $(weights_flags) \
	  --patch_size 128 --batch_size 1 --epoch 3 --steps 100 --lrgen 1e-3 --warm_up 20
	$(bin)/python -m benchmarks weights --data "$(data)" --output weights_run/scores.json \
	  --conditions all --weights "$$(ls -t $(run)_128/SegSRGAN_epoch_* | head -1)"

weights_brain: $(venv)/.dev ## train the network that finds the brain in a head, from data=FOLDER (an hour on 2 cores)
	@test -n "$(data)" || { echo "make weights_brain data=FOLDER; see weights/README.md"; exit 2; }
	mkdir -p weights_run/brain
	cp weights/recipes/heads.csv weights/recipes/heads_test.csv weights_run
	cp weights/recipes/heads_samples.csv weights_run/brain
	ln -sfn "$$(realpath "$(data)")/adult_labels" weights_run/adult_labels
	ln -sfn "$$(realpath "$(data)")/fetal_templates" weights_run/fetal_templates
	$(bin)/segsrgan synthesize --csv weights_run/heads_test.csv --patch 80 --number 6 --thickness 1 3 \
	  --stripped 0.35 --output weights_run/brain --overwrite
	$(bin)/segsrgan train --config weights/recipes/brain.toml --resume --snapshot_folder weights_run/brain \
	  --dice_file weights_run/brain/dice.csv --mse_file weights_run/brain/mse.csv $(weights_flags)

weights_supermask: $(venv)/.dev ## train networks of SuperMask by their recipe, from data=FOLDER
	@test -n "$(data)" || { echo "make weights_supermask data=FOLDER; see weights/README.md"; exit 2; }
	mkdir -p weights_run
	cp weights/recipes/supermask.csv weights_run
	ln -sfn "$$(realpath "$(data)")/fetal_templates" weights_run/fetal_templates
	$(bin)/supermask-train --config weights/recipes/supermask.toml --resume \
	  --synthetic_cases weights_run/supermask.csv --snapshot_folder weights_run/supermask $(weights_flags)

clean: ## remove what builds, tests and the demo wrote
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache demo_results
	find segsrgan supermask tests benchmarks Test_package_and_local/Python_function \
	  -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

remove_venv: ## remove the virtual environments, those of Test_package_and_local too
	rm -rf venv_*
	@$(MAKE) --no-print-directory -C Test_package_and_local remove_venv

$(package_targets):
	@$(MAKE) --no-print-directory -C Test_package_and_local $@

# One environment, editable, to which each step adds what its targets need.
$(venv)/.demo: extras = [demo]
$(venv)/.docs: extras = [docs]
$(venv)/.dev: extras = [dev]
$(venv)/.install $(venv)/.demo $(venv)/.docs $(venv)/.dev: pyproject.toml setup.py
	$(make_venv)
	@echo "Installing SegSRGAN$(extras) into $(CURDIR)/$(venv) (about a minute the first time)"
	$(bin)/python -m pip install --quiet --editable '.$(extras)'
	@touch $@
