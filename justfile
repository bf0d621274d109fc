# What .ci/run runs, part by part: `uv run just`, or `just` in an activated environment.

export OMP_NUM_THREADS := env("OMP_NUM_THREADS", "1")
export MKL_NUM_THREADS := env("MKL_NUM_THREADS", "1")

# The parts there are
default:
    @just --list

# Style and formatting
lint:
    ruff check .
    ruff format --check .

# Formatting, applied
format:
    ruff check --fix .
    ruff format .

# Types
types:
    mypy

# Tests: all, or those of the files given
test *FILES:
    pytest {{FILES}}

# The pages that conf/ writes, into docs/
pages:
    python -m tools.site --pages

# The documentation as a site in build/site; a broken link is an error (needs the group docs)
docs:
    python -m tools.site
