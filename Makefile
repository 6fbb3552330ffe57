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
# Further flags of all stages of `make weights`, such as --batch_size 8 on a GPU.
weights_flags ?=
run := weights_run/cortex
# bfloat16 where the processor multiplies in it; the sums, the weights and the losses are float32.
precision := $(shell grep -qsE 'avx512_bf16|amx_bf16' /proc/cpuinfo && echo mixed_bfloat16 || echo float32)

# A stage of `make weights`: patch, batch, epochs, updates in each, rate, seed, further flags.
define stage
@echo "Stage of $(1)^3: $(3) x $(4) updates of $(2), rate $(5), seed $(6), in $(precision)"
$(bin)/segsrgan train --config weights/recipes/cortex.toml --base_path "$(data)" --resume \
  --snapshot_folder $(run)_$(1) --dice_file $(run)_$(1)/dice.csv --mse_file $(run)_$(1)/mse.csv \
  --precision $(precision) --patch_size $(1) --batch_size $(2) --epoch $(3) --steps $(4) \
  --lrgen $(5) --seed $(6) $(7) $(weights_flags)
endef
last = "$$(ls -t $(run)_$(1)/SegSRGAN_epoch_* | head -1)"
from = --weights $(call last,$(1)) --zero_head False

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

weights: $(venv)/.dev ## train and score the weights that ship, from data=FOLDER (hours on 2 cores: weights/README.md)
	@test -n "$(data)" || { echo "make weights data=FOLDER; see weights/README.md"; exit 2; }
	@# Patches get as large as those of applying: means and deviations of the network are a patch's.
	$(call stage,64,2,40,400,4e-3,0)
	$(call stage,96,1,12,400,3e-3,1,$(call from,64))
	$(call stage,128,1,5,200,1.5e-3,2,$(call from,96))
	$(bin)/python -m benchmarks weights --data "$(data)" --output weights_run/scores.json \
	  --conditions all --weights $(call last,128)

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
