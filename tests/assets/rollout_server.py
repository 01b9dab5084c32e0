"""Servers with the endpoints and answers of vLLM (and SGLang's native ones), for tiny models; and with faults.

    python rollout_server.py

Reads lines from standard input: `PORT MODEL_FOLDER` (port 0 takes a free one) forks a server and prints its process id
and port. All of them end with the input. The servers have no adapters at first, like real ones. POST /fault makes one
fail:

    {"kind": "error", "times": 3}    the next three completions are answered so: error, busy, slow, hang, garbage,
                                     truncated, nested, drip (a byte every 0.1 s), endless, cut_error (a 500 that
                                     promises more), stalled_error (and keeps the connection), wrong (the base model
                                     answers), die (kill -9, the answer unsent), or one of `LIES`
    {"kind": "die", "after": 30}     the server dies at the 30th completion from now
    {"kind": "hang", "times": 1, "at": "/collective_rpc"}    the next call of that endpoint is answered so
    {"kind": "stale", "times": 1}    the next weights seem to be loaded, and older ones serve under their name
    {"kind": "forget"}               all adapters and weights are gone, as after a restart
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from served_model import DEFAULT_TOP_K, LIES, Served
from transformers import AutoModelForCausalLM, PreTrainedModel

MAX_LENGTH = 128
PROMISED = 10_000  # bytes, of answers that have fewer


class Handler(BaseHTTPRequestHandler):
    served: Served

    def do_GET(self) -> None:
        served = self.served
        if self.path == "/v1/models":
            cards = [{"id": "base", "object": "model", "root": served.base.name_or_path, "parent": None}]
            cards += [{"id": n, "object": "model", "root": p, "parent": "base"} for n, p in served.paths.items()]
            self.answer(200, {"object": "list", "data": cards})
        elif self.path == "/get_world_size":
            self.answer(200, {"world_size": 2})
        elif self.path == "/calls":
            self.answer(200, served.calls)
        else:
            self.answer(200 if self.path == "/health" else 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body.get("model") or body.get("lora_name") or ""
        self.served.calls.append(f"{self.path} {name}".strip())
        self.path, _, query = self.path.partition("?")
        said, served = query.rpartition("=")[2], self.served
        endpoints = {
            "/v1/completions": self.completions,
            "/generate": self.generate,
            "/v1/load_lora_adapter": self.load,
            "/load_lora_adapter": self.load,
            "/v1/unload_lora_adapter": self.unload,
            "/unload_lora_adapter": self.unload,
            "/reset_prefix_cache": lambda _: self.answer(200, {"success": True}),
            "/flush_cache": lambda _: self.answer(200),
            "/collective_rpc": self.call_worker,
            "/update_weights_from_disk": self.update,
            "/pause": lambda _: self.answer(200, setattr(served, "paused", said == "keep")),
            "/resume": lambda _: self.answer(200, setattr(served, "paused", False)),
            "/init_weight_transfer_engine": partial(self.transfer, "init"),
            "/start_weight_update": partial(self.transfer, "start"),
            "/update_weights": partial(self.transfer, "update"),
            "/finish_weight_update": partial(self.transfer, "finish"),
            "/sleep": lambda _: self.answer(200, self.served.sleep(int(said))),
            "/wake_up": lambda _: self.answer(200, self.served.wake(said)),
            "/release_memory_occupation": lambda _: self.answer(200, self.served.sleep(2)),
            "/resume_memory_occupation": lambda body: self.answer(200, [*map(self.served.wake, body["tags"])]),
            "/fault": self.fault,
        }
        if self.path not in endpoints:
            self.refuse(404, "Not Found")
            return
        with self.served.lock:
            kind, due = self.served.at.get(self.path, ("", False))
            if due:
                self.served.at[self.path] = kind, False
                self.wrong_answers()[kind]()
            else:
                endpoints[self.path](body)

    def completions(self, body: dict[str, Any]) -> None:
        served, model = self.served, self.served.adapters.get(body["model"]) if "model" in body else self.served.own
        if self.went_wrong():
            return
        if "model" not in body or served.fault("wrong"):
            model, body = served.base if "model" in body else model, body | {"model": "base"}
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
        parameters, names = body["sampling_params"], set(body.get("lora_path", []))
        if not names <= self.served.adapters.keys():
            self.refuse(400, f"Got LoRA adapter that has not been loaded: {names}")
            return
        options = parameters[0] | {
            "max_tokens": parameters[0]["max_new_tokens"],
            "seeds": [one["sampling_seed"] for one in parameters],
        }
        model = self.served.adapters[names.pop()] if names else self.served.own
        completions = self.served.sample(model, body["input_ids"][0], len(parameters), options)
        answers = [
            {
                "output_ids": c["tokens"],
                "meta_info": {
                    "finish_reason": {"type": "length"}
                    if c["stop"] is None
                    else {"type": "stop", "matched": c["stop"]},
                    "weight_version": self.served.weight_version,
                    "output_token_logprobs": [[p, t, None] for p, t in zip(c["logprobs"], c["tokens"], strict=True)],
                },
            }
            for c in completions
        ]
        self.answer(200, answers)

    def went_wrong(self) -> bool:
        """Answers, or does not, as the fault that is due; False if there is none."""
        if self.served.asleep:
            self.refuse(500, "The engine sleeps.")
            return True
        self.served.left -= 1
        if self.served.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.served.fault("slow"):
            time.sleep(0.3)
        for kind, answer in self.wrong_answers().items():
            if self.served.fault(kind):
                answer()
                return True
        return False

    def wrong_answers(self) -> dict[str, Callable[[], None]]:
        """By kind of fault."""
        return {
            "hang": self.hang,
            "die": lambda: os.kill(os.getpid(), signal.SIGKILL),
            "error": partial(self.refuse, 500, "EngineCore encountered an issue."),
            "busy": partial(self.refuse, 503, "Service Unavailable"),
            "garbage": partial(self.send, 200, b"<html>proxy says no</html>"),
            "truncated": partial(self.send, 200, b'{"model": "x", "choices": [', PROMISED),
            "nested": partial(self.send, 200, b"[" * 100_000),
            "cut_error": partial(self.send, 500, b"EngineCore", PROMISED),
            "stalled_error": partial(self.go_on, 500, b"EngineCore", pause=60.0),
            "drip": partial(self.go_on, 200, b"[", pause=0.1),
            "endless": partial(self.go_on, 200, b"1," * 2**15),
        }

    def hang(self) -> None:
        """Answers nothing for a while, and serves others."""
        self.served.lock.release()
        time.sleep(5)
        self.served.lock.acquire()

    def go_on(self, status: int, content: bytes, pause: float = 0.0) -> None:
        """Sends the content again and again, for as long as the client listens, and serves others."""
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

    def call_worker(self, body: dict[str, Any]) -> None:
        """Two workers, which say the same."""
        said = getattr(self.served, body["method"])(*body["args"])
        self.answer(200, {"results": [said, said]})

    def transfer(self, phase: str, body: dict[str, Any]) -> None:
        """A phase of vLLM's weight transfer, in its place among the others."""
        wrong = self.served.transfer(phase, body)
        self.answer(500 if wrong else 200, {"message": wrong})

    def update(self, body: dict[str, Any]) -> None:
        if Path(body["model_path"], "config.json").is_file():
            self.served.update_from_disk(body["model_path"], body["weight_version"])
            self.answer(200, {"success": True, "message": "Succeeded to update model weights."})
        else:
            self.answer(400, {"success": False, "message": f"Failed to get weights iterator: {body['model_path']}"})

    def unload(self, body: dict[str, Any]) -> None:
        if self.served.adapters.pop(body["lora_name"], None) is None:
            self.refuse(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
        else:
            del self.served.paths[body["lora_name"]]
            self.send(200, b"Success")

    def fault(self, body: dict[str, Any]) -> None:
        if body["kind"] == "forget":
            self.served.restart()
        if "at" in body:
            self.served.at[body["at"]] = body["kind"], True
        elif "after" in body:
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
