"""A worker of Dynamo dies in the middle of an answer, and the answer is the one that it would have been.

    python migrate.py PLAN

Starts Dynamo's frontend and two workers on loopback, without etcd and NATS. Run by `run` in this folder.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

#: Seconds for a process to be ready, and for an answer.
PATIENCE = 120
#: Tokens of an answer: enough that a worker dies long before its end.
LENGTH = 3000
BLOCK = 64


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Cluster:
    def __init__(self, plan: str, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.port = free_port()
        hosts = ("DYN_TCP_RPC_HOST", "DYN_TCP_RESPONSE_STREAM_HOST", "DYN_EVENT_PLANE_HOST", "DYN_SYSTEM_HOST")
        self.env = {**os.environ, "DYN_FILE_KV": str(folder / "kv"), "DYN_LOG": "info", "DYN_LOGGING_JSONL": "1"}
        self.env |= dict.fromkeys(hosts, "127.0.0.1")
        self.planes = ["--discovery-backend", "file", "--request-plane", "tcp", "--event-plane", "zmq"]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str) -> None:
        log = (self.folder / f"{name}.log").open("wb")
        command = (sys.executable, "-m", *command, *self.planes)
        self.processes[name] = subprocess.Popen(command, env=self.env, stdout=log, stderr=log, cwd=self.folder)

    def worker(self, name: str) -> None:
        module = ("jambac_runtime.dynamo", self.plan, "--served-model-name", "tiny", "--threads", "1")
        self.start(name, *module, "--block-size", str(BLOCK))

    def frontend(self) -> None:
        http = ("--http-host", "127.0.0.1", "--http-port", str(self.port))
        self.start("frontend", "dynamo.frontend", *http, "--router-mode", "kv", "--migration-limit", "3")

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def requests(self, name: str) -> int:
        """Number of requests that a worker has got."""
        lines = [line for line in self.log(name).splitlines() if '"request received"' in line]
        return sum('"endpoint":"generate"' in line for line in lines)

    def open(self, path: str, body: object = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"})
        try:
            return urllib.request.urlopen(request, timeout=PATIENCE)
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{path}: status {error.code}: {error.read().decode()}") from None

    def until(self, what: str, is_so) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise SystemExit(f"{name} ended with {process.returncode} before {what}:\n{self.log(name)[-4000:]}")
            try:
                if is_so():
                    return
            except OSError:
                pass
            try:  # the servers tell nobody when they are ready; the end of one is an event
                next(iter(self.processes.values())).wait(0.2)
            except subprocess.TimeoutExpired:
                pass
        raise SystemExit(f"waited {PATIENCE} seconds for {what}")

    def models(self) -> list[str]:
        with self.open("/v1/models") as answer:
            return [model["id"] for model in json.load(answer)["data"]]

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()

    def stream(self, body: dict, during=None) -> tuple[str, str | None, int]:
        """The text of a stream, why it ended, and the number of its pieces. Calls `during` after 20 of them."""
        text, reason, pieces = "", None, 0
        with self.open("/v1/chat/completions", {**body, "stream": True}) as answer:
            for line in answer:
                line = line.decode().strip()
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                event = json.loads(line[6:])
                if "choices" not in event:
                    raise SystemExit(f"an error in the stream: {line}")
                for choice in event["choices"]:
                    piece = choice["delta"].get("content") or ""
                    text, pieces = text + piece, pieces + bool(piece)
                    reason = choice.get("finish_reason") or reason
                if pieces == 20 and during is not None:
                    during()
                    during = None
        return text, reason, pieces


def check(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise SystemExit(f"{what}: found {found!r}, expected {expected!r}")


def main(plan: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        cluster = Cluster(plan, Path(name))
        try:
            run(cluster)
        except BaseException:
            for name in cluster.processes:
                print(f"--- {name}:\n{cluster.log(name)[-3000:]}", file=sys.stderr)
            raise
        finally:
            cluster.stop()


def run(cluster: Cluster) -> None:
    cluster.frontend()
    workers = ["first", "second"]
    for worker in workers:
        cluster.worker(worker)
    cluster.until("the model is registered", lambda: cluster.models() == ["tiny"])
    for worker in workers:
        cluster.until(f"the {worker} worker serves", lambda: '"request completed"' in cluster.log(worker))

    message = {"role": "user", "content": "Anna has a red kite. " * 8 + "What does Anna have?"}
    chat = {"model": "tiny", "messages": [message]}
    with cluster.open("/v1/chat/completions", {**chat, "max_tokens": 12, "temperature": 0}) as answer:
        whole = json.load(answer)
    check(whole["usage"]["completion_tokens"] <= 12, True, "the tokens of a chat")
    print(f"chat: {whole['choices'][0]['message']['content']!r}, {whole['choices'][0]['finish_reason']}")

    long = {**chat, "max_tokens": LENGTH, "ignore_eos": True}
    kinds = {"greedy": {"temperature": 0}, "drawn with a seed": {"temperature": 1.0, "seed": 7}}
    undisturbed = {kind: cluster.stream({**long, **sampling}) for kind, sampling in kinds.items()}
    for kind, (text, reason, pieces) in undisturbed.items():
        print(f"undisturbed, {kind}: {pieces} pieces, {len(text)} characters, {reason}")
        check(reason, "length", "the end of the answer")
        check(pieces > 500, True, "an answer of many pieces")

    for kind, sampling in kinds.items():
        before = {worker: cluster.requests(worker) for worker in workers}
        killed: list[str] = []

        def kill() -> None:
            cluster.until("a worker has the request", lambda: any(cluster.requests(w) > before[w] for w in workers))
            worker = next(w for w in workers if cluster.requests(w) > before[w])
            os.kill(cluster.processes.pop(worker).pid, signal.SIGKILL)
            killed.append(worker)

        text, reason, pieces = cluster.stream({**long, **sampling}, kill)
        other = next(w for w in workers if w != killed[0])
        moved = cluster.requests(other) - before[other]
        print(f"{kind}: the {killed[0]} worker was killed after 20 pieces; the {other} one got {moved} request; {pieces} pieces")
        check(moved, 1, "requests that moved")
        check((text, reason), undisturbed[kind][:2], f"the answer after the kill ({kind})")
        # The next kind kills the other one.
        cluster.worker(killed[0])
        cluster.until("the worker is back", lambda: '"request completed"' in cluster.log(killed[0]))

    with cluster.open("/metrics") as answer:
        metrics = answer.read().decode()
    moved = [line for line in metrics.splitlines() if "migration_total" in line and "ongoing" in line]
    print("\n".join(moved))
    check([line.rsplit(" ", 1)[1] for line in moved], ["2"], "migrations that the frontend counts")
    print("the answers after a kill are those without")


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
