"""A worker of Dynamo dies in the middle of an answer, and the answer is the one that it would have been.

    python migrate.py PLAN

Starts Dynamo's frontend and two workers on loopback, with the commands of `runtime/serve/kubernetes/leader-worker-set.yaml` and the
variables that LeaderWorkerSet sets. Without etcd on this machine, workers find each other by files. Run by `run` in this folder.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml

#: Seconds for a process to be ready, and for an answer.
PATIENCE = 120
#: Tokens of an answer: enough that a worker dies long before its end.
LENGTH = 3000
BLOCK = 64
SMALL_PORTS = iter(range(20000 + os.getpid() % 5000, 1 << 15))
WORKERS = ["first", "second"]
MANIFEST = Path(__file__).resolve().parents[3] / "serve/kubernetes/leader-worker-set.yaml"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def free_small_port() -> int:
    """A port below 32768, another one at each call: Dynamo parses DYN_SYSTEM_PORT as a signed 16-bit integer."""
    for port in SMALL_PORTS:
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise SystemExit("no free port below 32768")


class Cluster:
    """The processes of one group of LeaderWorkerSet."""

    def __init__(self, plan: str, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.port, self.etcd_port = free_port(), free_port()
        self.metrics_ports: dict[str, int] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        hosts = ("DYN_TCP_RPC_HOST", "DYN_TCP_RESPONSE_STREAM_HOST", "DYN_EVENT_PLANE_HOST", "DYN_SYSTEM_HOST", "POD_IP")
        self.env = {**os.environ, "DYN_FILE_KV": str(folder / "kv"), "DYN_LOG": "info", "DYN_LOGGING_JSONL": "1"}
        self.env |= {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
        self.env |= dict.fromkeys(hosts, "127.0.0.1") | {"LWS_LEADER_ADDRESS": "127.0.0.1", "LWS_GROUP_SIZE": "3"}
        template = yaml.safe_load(MANIFEST.read_text())["spec"]["leaderWorkerTemplate"]
        pods = [template[pod]["spec"]["containers"] for pod in ("leaderTemplate", "workerTemplate")]
        self.containers = {container["name"]: container for pod in pods for container in pod}
        self.has_etcd = shutil.which("etcd") is not None

    def local(self, text: str) -> str:
        """A value of the manifest on this machine."""
        text = re.sub(r"\$\((\w+)\)", lambda name: self.env[name[1]], text)
        text = text.replace("/plan/my.plan", self.plan).replace("--data-dir=/data", f"--data-dir={self.folder}/etcd")
        text = text.replace("0.0.0.0:", "127.0.0.1:").replace(":2379", f":{self.etcd_port}")
        return text if self.has_etcd else text.replace("backend=etcd", "backend=file")

    def start(self, name: str, container: str, index: int, *more: str, **env: str) -> None:
        """Starts a container's command, with more arguments, of which the last ones count."""
        spec = self.containers[container]
        command = [self.local(arg) for arg in (*spec["command"], *spec["args"])] + list(more)
        if command[0] == "python":
            command[0] = sys.executable
        values = {one["name"]: self.local(one["value"]) for one in spec.get("env", []) if "value" in one}
        log = (self.folder / f"{name}.log").open("wb")
        env = {**self.env, **values, "LWS_WORKER_INDEX": str(index), **env}
        self.processes[name] = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=self.folder)

    def worker(self, name: str) -> None:
        port = self.metrics_ports[name] = free_small_port()
        index = 1 + WORKERS.index(name)
        more = ("--served-model-name", "tiny", "--threads", "1", "--block-size", str(BLOCK))
        self.start(name, "worker", index, *more, DYN_SYSTEM_PORT=str(port))

    def leader(self) -> None:
        if self.has_etcd:
            peers = f"http://127.0.0.1:{free_port()}"
            more = (f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=default={peers}")
            self.start("etcd", "etcd", 0, *more)
            self.until("etcd answers", lambda: self.get(self.etcd_port, "/health"))
        print(f"discovery by {'etcd' if self.has_etcd else 'files'}")
        self.start("frontend", "frontend", 0, "--http-host", "127.0.0.1", "--http-port", str(self.port))

    @staticmethod
    def get(port: int, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
            return answer.read().decode()

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

    def metric(self, name: str) -> float:
        """The sum of a metric of the workers' `generate`."""
        texts = [self.get(port, "/metrics") for worker, port in self.metrics_ports.items() if worker in self.processes]
        lines = [line for text in texts for line in text.splitlines() if line.startswith(f"dynamo_component_{name}{{")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if 'dynamo_endpoint="generate"' in line)

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


def check_load(cluster: Cluster, chat: dict) -> None:
    """The load that the planner sees rises with requests, and falls when their clients leave."""
    check(cluster.metric("total_blocks") > 0, True, "blocks of the workers")
    is_seen = threading.Event()

    def ask() -> None:
        while not is_seen.is_set():
            cluster.stream({**chat, "max_tokens": LENGTH, "ignore_eos": True})

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        cluster.until("the workers tell their load", lambda: cluster.metric("gpu_cache_usage_percent") > 0)
    finally:
        is_seen.set()
        asking.join()
    before = cluster.metric("cancellation_total")
    answer = cluster.open("/v1/chat/completions", {**chat, "max_tokens": LENGTH, "ignore_eos": True, "stream": True})
    answer.readline()
    answer.close()
    cluster.until("the answer ends", lambda: cluster.metric("inflight_requests") == 0)
    cluster.until("the workers tell that nothing runs", lambda: cluster.metric("gpu_cache_usage_percent") == 0)
    check(cluster.metric("cancellation_total") > before, True, "answers cancelled when the client left")
    print(f"a client that leaves: {cluster.metric('cancellation_total') - before:.0f} answer cancelled, load back to 0")


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
    cluster.leader()
    workers = WORKERS
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

    check_load(cluster, chat)
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
