"""Runs jamba_app.py as Ray Serve does, on loopback, and checks the configuration in ray-service.yaml against Ray's own schema.

    python check.py PLAN
"""

import json
import os
import sys
import urllib.request
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))


def post(body: object) -> tuple[int, list[bytes]]:
    """The status, and the pieces as they come."""
    request = urllib.request.Request("http://127.0.0.1:8000/", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, list(iter(lambda: answer.read1(1 << 16), b""))
    except urllib.error.HTTPError as error:
        return error.code, [error.read()]


def main(plan: str) -> None:
    os.environ |= {"JAMBA_PLAN": plan, "RAY_USAGE_STATS_ENABLED": "0"}
    import ray
    from ray import serve
    from ray.serve.schema import ServeDeploySchema

    from jambac_runtime import Model

    manifest = yaml.safe_load((HERE / "ray-service.yaml").read_text())
    config = ServeDeploySchema(**yaml.safe_load(manifest["spec"]["serveConfigV2"]))
    print(f"serveConfigV2: valid by Ray {ray.__version__}, {config.applications[0].import_path}")

    body = {"prompt": "Once upon a time", "max_tokens": 40, "seed": 2, "temperature": 0.8}
    with Model(plan) as model:
        expected = model.generate(body["prompt"], max_tokens=40, seed=2, temperature=0.8).text

    ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", runtime_env={"working_dir": str(HERE)})
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": 8000})
        module, name = config.applications[0].import_path.split(":")
        serve.run(getattr(__import__(module), name), name="jamba", route_prefix="/")
        status, pieces = post(body)
        if (status, b"".join(pieces).decode()) != (200, expected):
            sys.exit(f"found {status} {pieces}, expected 200 {expected!r}")
        print(f"POST /: 200, {len(pieces)} pieces, the text of the model in process")
        status, pieces = post({"no": "prompt"})
        if status != 400:
            sys.exit(f"a request without a prompt: found {status} {pieces}, expected 400")
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
