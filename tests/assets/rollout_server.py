"""Servers with the endpoints, answers and habits of vLLM (and SGLang's native ones), for tiny models; and faults.

    python rollout_server.py

Reads lines from standard input: `PORT MODEL_FOLDER` (port 0 takes a free one) forks a server and prints its process id
and port. All of them end with the input. The servers know no adapters at first, like real ones. POST /fault makes one
fail:

    {"kind": "error", "times": 3}    the next three completions are answered so: error, busy, slow, hang, garbage,
                                     truncated, nested, drip (a byte every 0.1 s), endless, cut_error (a 500 that
                                     promises more), stalled_error (and keeps the connection), wrong (the base model
                                     answers), die (kill -9, the answer unsent), or by a lie, one of `LIES`
    {"kind": "die", "after": 30}     so is the 30th completion from now
    {"kind": "stale", "times": 1}    the next adapter is loaded, they say, and an older one serves under its name
    {"kind": "forget"}               all adapters are gone
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

MAX_LENGTH = 128
DEFAULT_TOP_K = 2  # as a checkpoint's generation config has one, which servers take for requests that name none
PROMISED = 10_000  # bytes, of answers that have fewer
Choices = list[dict[str, Any]]  # true completions, as vLLM gives them


def _tokens(lie: int) -> Callable[[Choices], object]:
    return lambda choices: choices[-1]["token_ids"].__setitem__(0, lie)


def _logprobs(lie: float) -> Callable[[Choices], object]:
    return lambda choices: [one["logprobs"].update(token_logprobs=[lie] * len(one["token_ids"])) for one in choices]


LIES: dict[str, Callable[[Choices], object]] = {  # what becomes of them
    "beyond_vocabulary": _tokens(10**6),
    "far_beyond_vocabulary": _tokens(2**70),
    "negative_token": _tokens(-1),
    "nan_logprobs": _logprobs(math.nan),
    "infinite_logprobs": _logprobs(-math.inf),
    "positive_logprobs": _logprobs(3.0),
    "fewer": lambda choices: choices.pop(),
    "more": lambda choices: choices.append(choices[-1] | {"index": len(choices)}),
    "twice": lambda choices: choices[-1].update(index=0),
    "fewer_logprobs": lambda choices: choices[-1]["logprobs"]["token_logprobs"].pop(),
    "no_tokens": lambda choices: choices[-1].update(token_ids=[], logprobs={"token_logprobs": []}, stop_reason=None),
    "other_end": lambda choices: choices[-1].update(finish_reason="\ud800" * 10**4),
}


class Served:
    """A base model and its adapters, by name."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.base, self.adapters, self.paths = model, {}, {}
        self.faults: Counter[str] = Counter()
        self.calls: list[str] = []
        self.left = -1  # completions until it dies, if it is to
        self.lock = Lock()

    def load(self, name: str, path: str) -> None:
        if self.fault("stale"):
            weights = list(self.adapters.values())[-1]
        else:
            weights = PeftModel.from_pretrained(copy.deepcopy(self.base), path).eval()
        self.adapters[name], self.paths[name] = weights, path

    def fault(self, kind: str) -> bool:
        """Whether that is to go wrong now; counts down."""
        self.faults[kind] -= (due := self.faults[kind] > 0)
        return due

    @torch.no_grad()
    def sample(self, model: Any, prompt: list[int], n: int, options: dict[str, Any]) -> list[dict[str, Any]]:
        """Tokens and log-probabilities of n completions, the j-th by a generator of seed + j; without a cache."""
        stops = set(options["stop_token_ids"]) | (set() if options["ignore_eos"] else {self.base.config.eos_token_id})
        generators = [torch.Generator().manual_seed(seed) for seed in options["seeds"]]
        ids = torch.tensor([prompt] * n)
        logprobs: list[torch.Tensor] = []
        for _ in range(options["max_tokens"]):
            logits = model(input_ids=ids, use_cache=False).logits[:, -1].float()
            if options["temperature"] == 0:
                chosen, scores = logits.argmax(dim=1), logits.log_softmax(dim=1)
            else:
                scores = logits / options["temperature"]
                if options["top_k"] > 0:
                    scores = scores.masked_fill(scores < scores.topk(options["top_k"]).values[:, -1:], -torch.inf)
                scores = scores.log_softmax(dim=1)
                noise = torch.stack([torch.empty(logits.shape[1]).exponential_(generator=g) for g in generators])
                chosen = (scores.exp() / noise).argmax(dim=1)
            ids = torch.cat([ids, chosen.unsqueeze(1)], dim=1)
            logprobs.append(scores.gather(1, chosen.unsqueeze(1)).squeeze(1))
        rows = zip(ids[:, len(prompt) :].tolist(), torch.stack(logprobs, dim=1).tolist(), strict=True)
        return [_cut(tokens, values, stops) for tokens, values in rows]


def _cut(tokens: list[int], logprobs: list[float], stops: set[int]) -> dict[str, Any]:
    end = next((i + 1 for i, token in enumerate(tokens) if token in stops), None)
    stop = None if end is None else tokens[end - 1]
    return {"tokens": tokens[:end], "logprobs": logprobs[:end], "stop": stop}


class Handler(BaseHTTPRequestHandler):
    served: Served

    def do_GET(self) -> None:
        served = self.served
        if self.path == "/v1/models":
            cards = [{"id": "base", "object": "model", "root": served.base.name_or_path, "parent": None}]
            cards += [{"id": n, "object": "model", "root": p, "parent": "base"} for n, p in served.paths.items()]
            self.answer(200, {"object": "list", "data": cards})
        elif self.path == "/calls":
            self.answer(200, served.calls)
        else:
            self.answer(200 if self.path == "/health" else 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body.get("model") or body.get("lora_name") or ""
        self.served.calls.append(f"{self.path} {name}".strip())
        endpoints = {
            "/v1/completions": self.completions,
            "/generate": self.generate,
            "/v1/load_lora_adapter": self.load,
            "/load_lora_adapter": self.load,
            "/v1/unload_lora_adapter": self.unload,
            "/unload_lora_adapter": self.unload,
            "/reset_prefix_cache": lambda _: self.answer(200, {"success": True}),
            "/flush_cache": lambda _: self.answer(200),
            "/fault": self.fault,
        }
        if self.path not in endpoints:
            self.refuse(404, "Not Found")
            return
        with self.served.lock:
            endpoints[self.path](body)

    def completions(self, body: dict[str, Any]) -> None:
        served, model = self.served, self.served.adapters.get(body["model"])
        if self.went_wrong():
            return
        if served.fault("wrong"):
            model, body = served.base, body | {"model": "base"}
        if model is None:
            self.refuse(404, f"The model `{body['model']}` does not exist.")
        elif len(body["prompt"]) + body["max_tokens"] > MAX_LENGTH:
            self.refuse(400, f"This model's maximum context length is {MAX_LENGTH} tokens.")
        elif body["temperature"] == 0 and body["n"] > 1:
            self.refuse(400, f"n must be 1 when using greedy sampling, got {body['n']}.")
        else:
            seeds = [body["seed"] + j for j in range(body["n"])]
            options = {"top_k": DEFAULT_TOP_K, "ignore_eos": False} | body | {"seeds": seeds}
            completions = served.sample(model, body["prompt"], body["n"], options)
            choices = [
                {
                    "index": index,
                    "text": "",
                    "logprobs": {"token_logprobs": completion["logprobs"]},
                    "finish_reason": "length" if completion["stop"] is None else "stop",
                    "stop_reason": completion["stop"],
                    "token_ids": completion["tokens"],
                }
                for index, completion in enumerate(completions)
            ]
            for kind, lie in LIES.items():
                if served.fault(kind):
                    lie(choices)
            self.answer(200, {"object": "text_completion", "model": body["model"], "choices": choices})

    def generate(self, body: dict[str, Any]) -> None:
        if self.went_wrong():
            return
        parameters, names = body["sampling_params"], set(body["lora_path"])
        if not names <= self.served.adapters.keys():
            self.refuse(400, f"Got LoRA adapter that has not been loaded: {names}")
            return
        options = parameters[0] | {
            "max_tokens": parameters[0]["max_new_tokens"],
            "seeds": [one["sampling_seed"] for one in parameters],
        }
        model = self.served.adapters[names.pop()]
        completions = self.served.sample(model, body["input_ids"][0], len(parameters), options)
        answers = [
            {
                "output_ids": c["tokens"],
                "meta_info": {
                    "finish_reason": {"type": "length"}
                    if c["stop"] is None
                    else {"type": "stop", "matched": c["stop"]},
                    "output_token_logprobs": [[p, t, None] for p, t in zip(c["logprobs"], c["tokens"], strict=True)],
                },
            }
            for c in completions
        ]
        self.answer(200, answers)

    def went_wrong(self) -> bool:
        """Answers, or does not, as the faults want it."""
        fault = self.served.fault
        self.served.left -= 1
        if fault("die") or self.served.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault("slow"):
            time.sleep(0.3)
        elif fault("hang"):
            self.served.lock.release()
            time.sleep(5)
            self.served.lock.acquire()
            return True
        elif fault("error"):
            self.refuse(500, "EngineCore encountered an issue.")
            return True
        elif fault("busy"):
            self.refuse(503, "Service Unavailable")
            return True
        elif fault("garbage"):
            self.send(200, b"<html>proxy says no</html>")
            return True
        elif fault("truncated"):
            self.send(200, b'{"model": "x", "choices": [', PROMISED)
            return True
        elif fault("nested"):
            self.send(200, b"[" * 100_000)
            return True
        elif fault("cut_error"):
            self.send(500, b"EngineCore", PROMISED)
            return True
        elif fault("stalled_error"):
            self.go_on(500, b"EngineCore", pause=60.0)
            return True
        elif fault("drip"):
            self.go_on(200, b"[", pause=0.1)
            return True
        elif fault("endless"):
            self.go_on(200, b"1," * 2**15)
            return True
        return False

    def go_on(self, status: int, content: bytes, pause: float = 0.0) -> None:
        """Says that again and again, for as long as the client listens, while others are served."""
        self.served.lock.release()
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.end_headers()
            while True:
                self.wfile.write(content)
                time.sleep(pause)
        self.served.lock.acquire()

    def load(self, body: dict[str, Any]) -> None:
        name, path = body["lora_name"], body["lora_path"]
        if name in self.served.adapters:
            self.refuse(400, f"The lora adapter '{name}' has already been loaded.")
        elif not Path(path).is_dir():
            self.refuse(404, f"No adapter found for {path}")
        else:
            self.served.load(name, path)
            self.send(200, f"Success: LoRA adapter '{name}' added successfully.".encode())

    def unload(self, body: dict[str, Any]) -> None:
        if self.served.adapters.pop(body["lora_name"], None) is None:
            self.refuse(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
        else:
            del self.served.paths[body["lora_name"]]
            self.send(200, b"Success")

    def fault(self, body: dict[str, Any]) -> None:
        if body["kind"] == "forget":
            self.served.adapters.clear()
            self.served.paths.clear()
        if "after" in body:
            self.served.left = body["after"]
        else:
            self.served.faults[body["kind"]] = body.get("times", 1)
        self.answer(200)

    def refuse(self, status: int, message: str) -> None:
        self.answer(status, {"error": {"message": message, "type": "Error", "code": status}})

    def answer(self, status: int, content: Any = None) -> None:
        self.send(status, b"" if content is None else json.dumps(content).encode())

    def send(self, status: int, content: bytes, promised: int | None = None) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(promised or len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            pass  # the client has given up

    def log_message(self, *_: Any) -> None:
        pass


class HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # killed servers leave no zombies
    models: dict[str, PreTrainedModel] = {}
    children = []
    for line in sys.stdin:
        port, folder = line.rstrip("\n").split(" ", 1)
        if folder not in models:
            models[folder] = AutoModelForCausalLM.from_pretrained(folder).eval()
        Handler.served = Served(models[folder])
        server = HTTPServer(("127.0.0.1", int(port)), Handler)
        child = os.fork()
        if child == 0:
            os.close(0)
            server.serve_forever()
        print(child, server.server_address[1], flush=True)
        server.socket.close()
        children.append(child)
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    main()
