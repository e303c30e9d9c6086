# make help lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run demo test campaign check check-units format man install uninstall clean

# Where install puts things: /usr for a package, with DESTDIR the folder that the package is made from.
PREFIX ?= /usr/local
DESTDIR ?=
# Not one in a home, which the units cannot reach.
SYSTEM_PYTHON ?= /usr/bin/python3
LIB := $(PREFIX)/lib/wxsup
NEW := $(DESTDIR)$(LIB).new
SHARE := $(DESTDIR)$(PREFIX)/share
MAN := $(SHARE)/man/man1
COMPLETIONS := $(SHARE)/bash-completion/completions/wxsup $(SHARE)/zsh/site-functions/_wxsup \
	$(SHARE)/fish/vendor_completions.d/wxsup.fish
QUIETLY := --quiet --disable-pip-version-check

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## install, and run everything with the sandbox in the foreground; state lies in ./var
	@exec $(BIN)/wxsup up --sandbox

demo: $(VENV)/.installed ## do the main job unattended in a temporary folder and show a transcript
	@$(BIN)/python -m tests.acceptance.demo

test: $(VENV)/.installed-dev ## run all tests
	$(BIN)/python -m pytest -n auto --dist loadgroup

campaign: $(VENV)/.installed-dev ## kill everything at random for SECONDS=600 while messages flow, and check that none is lost
	$(BIN)/python -m tests.campaign --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED))

check: $(VENV)/.installed-dev ## lint, types, layers, units
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory check-units

check-units: $(VENV)/.installed
	@if ! command -v systemd-analyze > /dev/null; then \
		echo "units not checked: there is no systemd-analyze here"; [ -z "$$CI" ]; exit; fi; \
	set -e; units=$$(mktemp -d); trap 'rm -r "$$units"' EXIT; \
	$(BIN)/wxsup install --root "$$units" --prefix /usr > /dev/null; cd "$$units/usr/lib/systemd/system"; \
	systemd-analyze verify --man=no --recursive-errors=no wx*; \
	for unit in wxclient@.service wxcontroller.service wxsup-resume.service; do \
		systemd-analyze security --offline=true --threshold=20 --no-pager $$unit > "$$units/told" \
			|| { cat "$$units/told"; exit 1; }; \
		tail -1 "$$units/told"; \
	done

format: $(VENV)/.installed-dev ## bring the code into the house form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

man: $(VENV)/.installed ## write the man pages into build/man
	@$(BIN)/python -m wxsup.manual build/man

install: ## install for systemd under PREFIX, /usr/local; packagers set DESTDIR
	@$(SYSTEM_PYTHON) -c 'import ensurepip' || { echo "python3-venv is missing: apt-get install python3-venv"; exit 1; }
	@# What is installed goes on until all of the new is there: clients may be started meanwhile.
	@set -e; wheels=$$(mktemp -d); trap 'rm -r "$$wheels"' EXIT; \
	echo "fetching what it needs ..."; \
	$(SYSTEM_PYTHON) -m venv "$$wheels/venv"; \
	"$$wheels/venv/bin/python" -m pip wheel $(QUIETLY) --wheel-dir "$$wheels" '.[systemd]'; \
	echo "installing into $(DESTDIR)$(LIB) ..."; \
	$(SYSTEM_PYTHON) -m venv --clear $(NEW); \
	$(NEW)/bin/python -m pip install $(QUIETLY) --no-compile --no-index --find-links "$$wheels" 'wxsup[systemd]'
	@$(NEW)/bin/python -m pip uninstall $(QUIETLY) --yes pip setuptools
	@$(NEW)/bin/python -m compileall -q -s '$(NEW)' -p '$(LIB)' $(NEW)/lib
	@find $(NEW)/bin $(NEW)/pyvenv.cfg -type f -exec sed -i 's|$(NEW)|$(LIB)|g' {} +
	@rm -rf $(DESTDIR)$(LIB).old; ! [ -e $(DESTDIR)$(LIB) ] || mv $(DESTDIR)$(LIB) $(DESTDIR)$(LIB).old
	@mv $(NEW) $(DESTDIR)$(LIB) && rm -rf $(DESTDIR)$(LIB).old
	@mkdir -p $(DESTDIR)$(PREFIX)/bin
	@ln -sf $(LIB)/bin/wxsup $(DESTDIR)$(PREFIX)/bin/wxsup
	@PYTHONDONTWRITEBYTECODE=1 $(DESTDIR)$(LIB)/bin/python -m wxsup install --root '$(DESTDIR)/' --prefix '$(PREFIX)'
	@PYTHONDONTWRITEBYTECODE=1 $(DESTDIR)$(LIB)/bin/python -m wxsup.manual '$(MAN)'
	@mkdir -p $(dir $(COMPLETIONS))
	@set -e; set -- $(COMPLETIONS); for shell in bash zsh fish; do \
		PYTHONDONTWRITEBYTECODE=1 $(DESTDIR)$(LIB)/bin/python -m wxsup completion $$shell > "$$1"; shift; done
	@[ -n '$(DESTDIR)' ] || { systemd-sysusers wxsup.conf && systemd-tmpfiles --create wxsup.conf; }
	@[ -n '$(DESTDIR)' ] || ! [ -d /run/systemd/system ] || { systemctl daemon-reload && systemctl reload dbus.service; }
	@echo "installed; next: docs/howto/systemd.md"

uninstall: ## remove what install brought; settings, records, sessions and users stay
	@! [ -d /run/systemd/system ] || [ -n '$(DESTDIR)' ] || { \
		systemctl disable --now wxcontroller.socket wxcontroller.service wxclients.target wxsup-resume.service; \
		systemctl stop 'wxclient@*.service'; }
	@$(DESTDIR)$(LIB)/bin/python -m wxsup uninstall --root '$(DESTDIR)/' --prefix '$(PREFIX)'
	@rm -rf $(DESTDIR)$(LIB) $(DESTDIR)$(PREFIX)/bin/wxsup $(MAN)/wxsup.1 $(MAN)/wxsup-*.1 $(COMPLETIONS)
	@! [ -d /run/systemd/system ] || [ -n '$(DESTDIR)' ] || { systemctl daemon-reload && systemctl reload dbus.service; }

clean: ## remove what was built and installed here; ./var, which holds your clients, stays
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "wxsup needs Python 3.11 or newer; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/.installed
	@echo "installing the tools for developers into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@
