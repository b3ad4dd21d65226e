"""`python -m jambac_runtime serve PLAN`: the HTTP server of `jamba serve`."""

from __future__ import annotations

import argparse
import ipaddress
import json
import signal
import sys
from pathlib import Path

from . import _native
from .model import open_options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jambac_runtime", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser(
        "serve", help="serve a plan over HTTP", description="An HTTP server with the APIs of OpenAI, Anthropic and Ollama."
    )
    add = serve.add_argument
    add("plan", type=Path, metavar="PLAN", help="a plan that jambac build wrote")
    add("--host", default="127.0.0.1", help="address to listen on; others than loopback need --api-keys or --insecure")
    add("--port", type=int, default=8080, help="port to listen on; 0 takes a free one")
    add("--unix-socket", metavar="PATH", help="listen on a unix socket instead")
    add("--api-keys", metavar="FILE", help="digests of API keys, as for jamba serve")
    add("--insecure", action="store_true", help="serve everybody on an address that is not loopback")
    add("--alias", action="append", default=[], metavar="NAME", help="another name of the model; repeatable")
    add("--any-model", action="store_true", help="accept requests for any model")
    add("--cors-origin", action="append", default=[], metavar="ORIGIN", help="a web page that may use the server")
    add("--queue", type=int, default=64, metavar="N", help="answers that may wait besides those that run")
    add("--cache-mib", type=int, default=1024, metavar="MIB", help="memory of the prefix cache; 0 turns it off")
    add("--cache-interval", type=int, default=512, metavar="N", help="tokens between the states of one prompt in the cache")
    add("--kv-events", metavar="HOST:PORT", help="publish what enters and leaves the cache, as for jamba serve")
    add("--kv-events-topic", metavar="TOPIC", help="first frame of these events; by default kv@HOST:PORT@MODEL")
    add("--states", metavar="DIR", help="folder for named states")
    add("--itl-target", type=int, default=120, metavar="MS", help="longest time between two tokens; 0 is no limit")
    add("--timeout", type=int, default=600, metavar="S", help="longest time of a request; 0 is no limit")
    add("--drain", type=int, default=30, metavar="S", help="time for answers to end after SIGTERM")
    add("--sandbox", choices=["auto", "on", "off"], default="auto", help="give up files and programs once the plan is open")
    add("--device", default="cpu", help="cpu, or cuda:N")
    add("-t", "--threads", type=int, help="by default one per core")
    add("-c", "--context", type=int, metavar="N", help="tokens of a sequence, if less than the plan's")
    add("--sequences", type=int, metavar="N", help="sequences, if less than the plan's")
    add("--isa", metavar="TARGET", help="target to run, for example x86-64-v3")
    add("--trust-weights", action="store_true", help="do not verify the digest of the weights")
    add("--require-digest", metavar="HEX", help="refuse plans with another digest")
    return parser


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = _parser()
    args = parser.parse_args(arguments)
    is_local = args.unix_socket is not None or _is_loopback(args.host)
    if not is_local and args.api_keys is None and not args.insecure:
        parser.error(f"--host {args.host} lets other machines in: add --api-keys FILE, or --insecure to serve everybody")
    if not 0 <= args.port < 65536:
        parser.error(f"--port: found {args.port}, expected 0 … 65535")
    served = {
        "host": args.host,
        "port": args.port,
        "unix_socket": args.unix_socket,
        "api_keys": args.api_keys,
        "aliases": args.alias,
        "any_model": args.any_model,
        "any_host": not is_local or args.unix_socket is not None,
        "cors_origins": args.cors_origin,
        "queue": args.queue,
        "cache_bytes": args.cache_mib << 20,
        "cache_interval": args.cache_interval,
        "kv_events": args.kv_events,
        "kv_events_topic": args.kv_events_topic,
        "states": args.states,
        "step_target_ms": args.itl_target,
        "timeout": args.timeout,
        "drain": args.drain,
        "sandbox": args.sandbox,
    }
    options = open_options(
        device=args.device,
        threads=args.threads,
        target=args.isa,
        max_context=args.context,
        max_sequences=args.sequences,
        trust_weights=args.trust_weights,
        require_digest=args.require_digest,
    )
    signals = 0

    def stop(number: int, frame: object) -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)

    def ready(address: str, model: str, sequences: int, context: int) -> None:
        print(f"Serving {model} at {address}: {sequences} sequences, {context} tokens of context", flush=True)

    try:
        _native.serve(args.plan, options, json.dumps(served), ready, lambda: signals > 0)
    except (ValueError, OSError, MemoryError, _native.EngineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
