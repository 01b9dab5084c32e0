.PHONY: test lint

test: ## the tests
	pytest

lint: ## style and types
	ruff check .
	ruff format --check .
	mypy
