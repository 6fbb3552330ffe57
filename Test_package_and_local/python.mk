# SPDX-License-Identifier: MIT
# Finds a Python that can run the project, for the makefile here and the one above.
#   make python=3.12 …                 a version, from the PATH or from pyenv
#   make python=/opt/python/bin/python3 …   a program
# Defines: interpreter, version (3.12), venv (venv_3.12) and bin (venv_3.12/bin).

python ?=
venvs = $(HOME)/.pyenv/versions
candidates := $(if $(python), \
  $(python) python$(python) $(wildcard $(venvs)/$(python)/bin/python $(venvs)/$(python).*/bin/python), \
  python3.13 python3.12 python3.11 python3 \
  $(wildcard $(venvs)/3.13.*/bin/python $(venvs)/3.12.*/bin/python $(venvs)/3.11.*/bin/python))

# The program must run (a pyenv shim may not), be of a version we know, and make environments.
probe = import sys, venv, ensurepip; \
  (3, 11) <= sys.version_info[:2] <= (3, 13) or sys.exit(1); \
  print("%d.%d" % sys.version_info[:2], sys.executable)
found := $(shell for p in $(candidates); do "$$p" -c '$(probe)' 2>/dev/null && break; done)

version := $(firstword $(found))
interpreter := $(wordlist 2, 99, $(found))
venv := venv_$(version)
bin := $(venv)/bin

# A broken environment, left by an interrupted run, has no pip: made anew.
define make_venv
@test -n "$(interpreter)" || { echo "No Python 3.11, 3.12 or 3.13 with the modules venv and" \
  "ensurepip was found; name one: make python=/path/to/python" >&2; exit 1; }
@test -x $(bin)/pip || "$(interpreter)" -m venv --clear $(venv)
endef
