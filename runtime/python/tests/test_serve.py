"""The server in the wheel."""

import json
import signal
import subprocess
import sys
import urllib.request


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jambac_runtime", "serve", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_it_answers_and_ends_when_told(plan: str) -> None:
    server = start(plan, "--port", "0", "--alias", "tiny", "--sandbox", "on")
    line = server.stdout.readline()
    assert line.startswith("Serving "), server.stderr.read()
    address = line.split(" at ")[1].split(": ")[0]
    body = {"model": "tiny", "prompt": "Once upon a time.", "max_tokens": 8, "temperature": 0}
    request = urllib.request.Request(
        f"{address}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        answer = json.load(response)
    assert answer["usage"]["completion_tokens"] == 8
    server.send_signal(signal.SIGTERM)
    _, log = server.communicate()
    assert server.returncode == 0, log
    assert "/v1/completions" in log


def test_ctrl_c_ends_it(plan: str) -> None:
    server = start(plan, "--port", "0")
    assert server.stdout.readline().startswith("Serving ")
    server.send_signal(signal.SIGINT)
    server.communicate()
    assert server.returncode == 0


def test_what_is_wrong_is_told(plan: str) -> None:
    for arguments, words in [
        ((plan, "--host", "0.0.0.0"), "lets other machines in"),
        (("absent.plan",), "absent.plan"),
        ((plan, "--api-keys", "absent.keys"), "absent.keys"),
        ((plan, "--host", "192.0.2.1", "--insecure"), "cannot listen"),
        ((plan, "--sequences", "99", "--port", "0"), "sequences: found 99"),
    ]:
        server = start(*arguments)
        _, log = server.communicate()
        assert server.returncode in (1, 2) and words in log, log
        assert "Traceback" not in log
