#!/usr/bin/env python3
"""Slow clients against `jamba serve`: heads, bodies and readers that take their time, beside one client that does not.

    apt-get install -y slowhttptest
    benches/serve/slow.py PLAN > benches/results/DATE-slow-clients.md

slowhttptest opens 200 connections on loopback for 60 s in each of its modes. The normal client asks for the same answer again and
again; its text must not change. Its times are noisy where both share the cores with the server.
"""

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time

MODES = [
    ("slow heads", ["-H", "-i", "5", "-u", "http://{address}/v1/models"]),
    ("slow bodies", ["-B", "-i", "5", "-s", "8192", "-t", "POST", "-f", "application/json", "-u", "http://{address}/v1/completions"]),
    ("slow readers", ["-X", "-n", "5", "-w", "10", "-y", "20", "-z", "32", "-k", "3", "-u", "http://{address}/metrics"]),
]


def ask(address):
    """The text of an answer, and the seconds that it took from connecting to the last byte."""
    began = time.monotonic()
    connection = http.client.HTTPConnection(address, timeout=120)
    body = json.dumps({"prompt": "Once upon a time.", "max_tokens": 32, "temperature": 0, "ignore_eos": True})
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer["choices"][0]["text"], time.monotonic() - began


def row(name, seconds, fates):
    times = sorted(seconds)
    p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
    return f"| {name} | {len(times)} | {statistics.median(times) * 1e3:.1f} | {p99 * 1e3:.1f} | {times[-1] * 1e3:.1f} | {fates} |"


def attack(address, arguments, options):
    """Runs one mode beside the client. Returns the client's times and what became of the connections."""
    arguments = [argument.format(address=address) for argument in arguments]
    command = ["slowhttptest", "-c", str(options.connections), "-r", "100", "-l", str(options.seconds), *arguments]
    with tempfile.TemporaryFile("w+") as output:
        attacker = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        answers = []
        while attacker.poll() is None:
            answers.append(ask(address))
        output.seek(0)
        report = re.sub(r"\x1b\[[0-9;]*m", "", output.read())
    last = {}
    for name, number in re.findall(r"^(initializing|pending|connected|error|closed|service available):\s+(\w+)", report, re.M):
        last[name] = number
    if attacker.returncode != 0:
        sys.exit(report)
    ended = re.findall(r"Test ended on (\d+)\w* second\s+Exit status: (.*)", report)
    seconds, why = ended[-1] if ended else ("?", "?")
    what = "all closed by the server" if "No open connections" in why else f"{last.get('connected', '?')} open"
    return answers, f"{what} after {seconds} s; available: {last.get('service available', '?')}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan")
    parser.add_argument("--jamba", default="target/release/jamba")
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    command = [options.jamba, "serve", options.plan, "--port", "0", "--sandbox", "on"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        first = server.stdout.readline()
        address = re.search(r"http://([^:]+:\d+)", first).group(1)
        expected, _ = ask(address)
        alone = []
        until = time.monotonic() + min(options.seconds, 20)
        while time.monotonic() < until:
            alone.append(ask(address))
        print(f"{first}\n{options.connections} slow connections; one client asks for 32 tokens, again and again.\n")
        print("| | answers | p50, ms | p99, ms | longest, ms | slow connections |\n|---|---|---|---|---|---|")
        print(row("alone", [seconds for _, seconds in alone], ""))
        texts = {text for text, _ in alone}
        for name, arguments in MODES:
            answers, fates = attack(address, arguments, options)
            texts |= {text for text, _ in answers}
            print(row(name, [seconds for _, seconds in answers], fates), flush=True)
        if texts != {expected}:
            sys.exit(f"the client's text changed: {sorted(texts)}")
        print("\nThe text of every answer was the same.")
    finally:
        server.terminate()
        server.wait()


main()
