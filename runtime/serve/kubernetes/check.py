"""Checks the manifests of this folder: their schemas, and what they promise about the server, on the server itself.

    python check.py JAMBA PLAN [--crds DIR] [--require-crds]

- Objects of Kubernetes itself: against its published JSON schemas (package kubernetes-validate), no unknown field.
- Custom resources: against the models that KServe publishes (package kserve), and against the CustomResourceDefinitions in DIR, of
  which `kubectl get crd NAME -o yaml` prints those of a cluster. Kinds without a schema are named.
- The server's arguments, ports, probes and volumes: a server runs with them on loopback.
- The metrics that endpoint pickers read: names, types, labels.
- Events of the cache: decoded as llm-d decodes them, while requests run.
"""

import argparse
import importlib
import importlib.util
import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
import urllib.error
import urllib.request
from pathlib import Path

import jsonschema
import kubernetes_validate
import msgspec
import yaml
import zmq
from prometheus_client.parser import text_string_to_metric_families

HERE = Path(__file__).resolve().parent
#: API groups of Kubernetes itself.
CORE = {"v1", "apps/v1", "networking.k8s.io/v1"}
VERSION = "1.33"
#: Seconds for the server to be ready, and for an event.
PATIENCE = 60
#: What the endpoint picker of the Gateway API inference extension reads under vLLM's names: the type, and the labels.
#: docs/proposals/003-model-server-protocol of that project.
METRICS = {
    "vllm:num_requests_waiting": ("gauge", set()),
    "vllm:num_requests_running": ("gauge", set()),
    "vllm:kv_cache_usage_perc": ("gauge", set()),
    "vllm:cache_config_info": ("gauge", {"block_size", "num_gpu_blocks"}),
    "vllm:lora_requests_info": ("gauge", {"max_lora", "running_lora_adapters", "waiting_lora_adapters"}),
}


def fail(reason: str) -> None:
    sys.exit(f"error: {reason}")


def manifests() -> list[tuple[str, dict]]:
    files = sorted(HERE.rglob("*.yaml"))
    return [(str(file.relative_to(HERE)), one) for file in files for one in yaml.safe_load_all(file.read_text()) if one]


# --- schemas


def strict(schema: object, is_root: bool = False) -> object:
    """A schema of a CustomResourceDefinition as JSON Schema that refuses unknown fields."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: strict(one) for name, one in schema.items() if name not in ("description", "default", "properties", "format")}
    if "properties" in schema:
        made["properties"] = {name: strict(one) for name, one in schema["properties"].items()}
        if is_root:  # the schema has no fields of the object's metadata
            made["properties"]["metadata"] = {"type": "object", "required": ["name"]}
        is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
        if schema.get("type") == "object" and not is_open:
            made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
        made.pop("anyOf", None)
    return made


def custom_schemas(folder: Path | None) -> dict[tuple[str, str], object]:
    schemas = {}
    for file in sorted(folder.rglob("*.yaml")) if folder else []:
        for crd in yaml.load_all(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if not crd or crd.get("kind") != "CustomResourceDefinition":
                continue
            spec = crd["spec"]
            for version in spec["versions"]:
                key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                schemas[key] = strict(version["schema"]["openAPIV3Schema"], is_root=True)
    return schemas


def kserve_models() -> types.ModuleType:
    """KServe's models, without the rest of the package, which needs a hundred others."""
    if "kserve" not in sys.modules:
        package = types.ModuleType("kserve")
        package.__path__ = importlib.util.find_spec("kserve").submodule_search_locations
        sys.modules["kserve"] = package
    return importlib.import_module("kserve.models")


def kserve_model(kind: str, version: str) -> type | None:
    models = kserve_models()
    return getattr(models, version.rsplit("/", 1)[1].capitalize() + kind, None)


def check_kserve(model: type, found: object, place: str) -> int:
    """Fields that the models of KServe's Python package do not know. Returns the number of fields that were looked at."""
    models, n = kserve_models(), 0
    names = {key: (attribute, model.openapi_types[attribute]) for attribute, key in model.attribute_map.items()}
    for key, value in found.items():
        if key not in names:
            fail(f"{place}.{key}: unknown to KServe, expected one of {sorted(names)}")
        kind, n = names[key][1], n + 1
        inner = re.fullmatch(r"list\[(\w+)\]", kind)
        below = getattr(models, inner.group(1) if inner else kind, None)
        if below is not None and hasattr(below, "attribute_map"):
            for one in value if inner else [value]:
                n += check_kserve(below, one, f"{place}.{key}")
    return n


def check_schemas(folder: Path | None) -> list[str]:
    """The kinds that no schema was at hand for."""
    schemas, unchecked = custom_schemas(folder), []
    for file, one in manifests():
        version, kind = one["apiVersion"], one["kind"]
        place, by = f"{file}: {kind} {one['metadata']['name']}", []
        try:
            if version in CORE:
                kubernetes_validate.validate(one, VERSION, strict=True)
                by.append(f"Kubernetes {VERSION}")
            if (version, kind) in schemas:
                jsonschema.Draft7Validator(schemas[version, kind]).validate(one)
                by.append("its CustomResourceDefinition")
        except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
            where = ".".join(map(str, getattr(error, "path", [])))
            fail(f"{place}: {where}: {getattr(error, 'message', error)}")
        if "kserve" in version and (model := kserve_model(kind, version)) is not None:
            n = check_kserve(model, one, f"{place}: ")
            by.append(f"KServe's models ({n} fields)")
        if by:
            print(f"{place}: valid by {' and '.join(by)}")
        else:
            unchecked.append(f"{version} {kind}")
    return unchecked


# --- the server


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """A server with the arguments of a container, on loopback: its ports are others, and its mounts are in a folder."""

    def __init__(self, jamba: str, plan: Path, container: dict, folder: Path, key: str) -> None:
        self.ports, self.key = {}, key
        (folder / "my.plan").symlink_to(plan)
        digest = subprocess.run([jamba, "serve", plan, "--digest-key"], input=key, text=True, capture_output=True, check=True)
        (folder / "digests").write_text(digest.stdout)
        args = [self.local(arg, folder) for arg in container["args"]]
        for port in container["ports"]:
            if port["containerPort"] not in self.ports:
                fail(f"no argument of the server names port {port['containerPort']}")
        self.log = (folder / "log").open("w+")
        command = [jamba, "serve", *args]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def local(self, arg: str, folder: Path) -> str:
        for mount in ("/plan/", "/keys/", "/mnt/models/"):
            arg = arg.replace(mount, f"{folder}/")
        arg = arg.replace("$(POD_IP)", "10.1.2.3").replace("{{.Name}}", "jamba")
        if arg.startswith("--host="):
            return "--host=127.0.0.1"
        if arg.startswith("--port="):
            return f"--port={self.port(int(arg.split('=')[1]))}"
        listens = re.fullmatch(r"(--[\w-]+=(?:tcp://)?)(?:\*|0\.0\.0\.0):(\d+)", arg)
        return f"{listens[1]}127.0.0.1:{self.port(int(listens[2]))}" if listens else arg

    def port(self, theirs: int) -> int:
        return self.ports.setdefault(theirs, free_port())

    def text(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def request(self, path: str, port: int, body: object = None) -> tuple[int, str]:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[port]}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def until_ready(self, path: str, port: int) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:  # the end of the server is an event; that it is ready is asked, as a probe does
                self.process.wait(0.1)
                fail(f"the server ended with {self.process.returncode}:\n{self.text()}")
            except subprocess.TimeoutExpired:
                pass
            try:
                if self.request(path, port)[0] == 200:
                    return
            except OSError:
                pass
        fail(f"not ready after {PATIENCE} seconds:\n{self.text()}")

    def stop(self) -> None:
        self.process.terminate()
        if (status := self.process.wait(PATIENCE)) != 0:
            fail(f"the server ended with {status}:\n{self.text()}")


def probes(container: dict) -> list[tuple[str, str, int]]:
    ports = {port.get("name"): port["containerPort"] for port in container["ports"]}
    named = [(name, container[name]["httpGet"]) for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    return [(name, get["path"], ports.get(get["port"], get["port"])) for name, get in named]


def check_metrics(server: Server, port: int) -> None:
    status, text = server.request("/metrics", port)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for name, (kind, labels) in METRICS.items():
        family = families.get(name) or fail(f"/metrics has no {name}")
        found = (family.type, set(family.samples[0].labels))
        if found != (kind, labels):
            fail(f"/metrics: {name}: found {found}, expected {(kind, labels)}")
    print(f"/metrics: {', '.join(METRICS)}")


class Batch(msgspec.Struct, array_like=True):
    """A message as llm-d has it: pkg/kvevents/engineadapter/vllm_adapter.go."""

    ts: float
    events: list[list]
    data_parallel_rank: int | None = None


def check_events(server: Server, port: int, api: int, topic: str) -> None:
    socket = zmq.Context.instance().socket(zmq.SUB)
    socket.setsockopt(zmq.RCVTIMEO, 1000 * PATIENCE)
    socket.connect(f"tcp://127.0.0.1:{server.ports[port]}")
    socket.subscribe(topic)
    is_heard, refused = threading.Event(), []

    def ask() -> None:
        n = 0
        while not is_heard.is_set():  # a subscriber misses events from before its subscription
            prompt = [5 + (n + k * k) % 250 for k in range(1100)]
            status, text = server.request("/v1/completions", api, {"prompt": prompt, "max_tokens": 1})
            if status != 200:
                refused.append(f"/v1/completions: {status}: {text}")
                return
            n += 1

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        stored: dict[int, list] = {}
        before = None
        while not any(event[2] in stored for event in stored.values()):
            name, number, payload = socket.recv_multipart()
            number = int.from_bytes(number, "big")
            if name.decode() != topic or before not in (None, number - 1):
                fail(f"events: found {name!r} {number}, expected {topic!r} {before} + 1")
            before = number
            for event in msgspec.msgpack.decode(payload, type=Batch).events:
                tag, hashes, parent, tokens, block_size, lora, medium = event
                if (tag, len(hashes), len(tokens), lora) != ("BlockStored", 1, block_size, None):
                    fail(f"events: found {event}")
                stored[hashes[0]] = event
    except zmq.Again:
        fail("\n".join([f"no event in {PATIENCE} seconds", *refused, server.text()]))
    finally:
        is_heard.set()
        asking.join()
        socket.close()
    print(f"events of the cache: {len(stored)} blocks of {block_size} tokens, a chain among them")


def check_server(jamba: str, plan: Path, file: str, container: dict) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(jamba, plan, container, Path(folder), "a key")
        api = container["ports"][0]["containerPort"]
        try:
            for name, path, port in probes(container):
                server.until_ready(path, port)
                print(f"{file}: {name}: GET {path} at port {port}: 200")
            names = {port.get("name"): port["containerPort"] for port in container["ports"]}
            check_metrics(server, names.get("metrics", api))
            body = {"model": "jamba", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
            status, text = server.request("/v1/completions", api, body)
            if status != 200:
                fail(f"/v1/completions: {status}: {text}")
            if "kv-events" in names:
                check_events(server, names["kv-events"], api, "kv@10.1.2.3:8080@jamba")
        except BaseException:
            server.process.kill()
            raise
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jamba", metavar="JAMBA")
    parser.add_argument("plan", type=Path, metavar="PLAN")
    parser.add_argument("--crds", type=Path, metavar="DIR")
    parser.add_argument("--require-crds", action="store_true", help="fail if a kind has no schema")
    args = parser.parse_args()
    unchecked = check_schemas(args.crds)
    for file, one in manifests():
        spec = one["spec"].get("template", {}).get("spec", one["spec"])
        for container in spec.get("containers", []):
            if container["image"].startswith("jamba:"):
                check_server(args.jamba, args.plan.resolve(), file, container)
    if unchecked:
        print(f"!! no schema at hand (--crds DIR): {', '.join(unchecked)}: NOT validated", file=sys.stderr)
        sys.exit(1 if args.require_crds else 0)


if __name__ == "__main__":
    main()
