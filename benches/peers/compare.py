"""Compares plans with llama.cpp, and with Hugging Face transformers, on the same checkpoints, side by side in one run.

    cargo build --release --workspace && python3 benches/peers/compare.py --work FOLDER [--models mid,midmoe] [--pairs 5] [--threads 2]

FOLDER holds what is made once: a virtual environment with torch, transformers and llama.cpp (the sources that the package
llama-cpp-python carries, built here with its default options for this machine), checkpoints of random weights
(checkpoints.py), their GGUF files in each format, and plans. About 10 GB and half an hour the first time.

Every figure is measured in pairs, one run of ours and one of theirs in turn, the order swapped from pair to pair, so that a
machine that becomes slower meanwhile slows both; the table has medians, and the median of the pairs' ratios with their spread.
Results go to benches/results/DATE-peers.md and .json.
"""

import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LLAMA = "llama-cpp-python==0.3.36"
PACKAGES = ["torch==2.15.0", "transformers==5.23.0", "safetensors==0.8.0", "sentencepiece==0.2.3", "cmake", "ninja", "gguf==0.19.0"]

# What is compared: measure, format of the plan, format of the peer's file, ratio that is aimed at.
ROWS = [
    ("prefill", "bf16", "bf16", 2.2),
    ("prefill", "bf16", "f16", 1.7),
    ("prefill", "int8", "q8_0", 2.5),
    ("decode", "bf16", "bf16", 1.35),
    ("decode", "int8", "q8_0", 1.6),
    ("decode", "int4", "q4_k_m", 1.6),
    ("decode of 8", "int8", "q8_0", 3.0),
    ("first token", "bf16", "bf16", 2.0),
    ("first token, checked", "bf16", "bf16", 1.0),
]
# Of tiny, the trained checkpoint of this repository, nothing but the first token is worth a comparison.
MODELS = ("mid", "midmoe", "tiny")
MEASURES = {
    "prefill": "prefill of 512 tokens, tokens/s",
    "decode": "decode of 64 tokens, tokens/s",
    "decode of 8": "decode of 8 sequences of 64 tokens together, tokens/s",
    "first token": "a process that opens the model and answers a prompt of one token, times a second (ours: --trust-weights)",
    "first token, checked": "the same, our weights' digests compared first, which llama.cpp does not do",
}


def run(command, **options):
    """Runs a command and returns what it prints; its errors are shown where it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\nfailed with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


class Tools:
    """Programs of both sides; built where they are missing."""

    def __init__(self, work, threads):
        self.work, self.threads = work, threads
        self.python = work / "venv/bin/python"
        self.llama_cpp = work / "llama/vendor/llama.cpp"
        self.build = work / "llama/build"
        self.jamba, self.jambac = (ROOT / "target/release" / name for name in ("jamba", "jambac"))
        if target := os.environ.get("CARGO_TARGET_DIR"):
            self.jamba, self.jambac = (pathlib.Path(target) / "release" / name for name in ("jamba", "jambac"))

    def prepare(self):
        work = self.work
        work.mkdir(parents=True, exist_ok=True)
        if not self.python.exists():
            run([sys.executable, "-m", "venv", work / "venv"])
            run([self.python, "-m", "pip", "install", *PACKAGES])
        if not self.llama_cpp.exists():
            run([self.python, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python", LLAMA, "-d", work / "sdist"])
            (work / "llama").mkdir(exist_ok=True)
            run(["tar", "xzf", next((work / "sdist").glob("*.tar.gz")), "-C", work / "llama", "--strip-components=1"])
        if not self.llama("llama-batched-bench").exists():
            environment = os.environ | {"PATH": f"{work / 'venv/bin'}:{os.environ['PATH']}"}
            run(["cmake", "-S", self.llama_cpp, "-B", self.build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                 "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF"], env=environment)
            run(["cmake", "--build", self.build, "--target", "llama-bench", "llama-batched-bench", "llama-quantize", "llama-server"],
                env=environment)

    def llama(self, program):
        return self.build / "bin" / program

    def checkpoint(self, model):
        return ROOT / "models/tiny" if model == "tiny" else self.work / "checkpoints" / model

    def gguf(self, model, fmt):
        """The peer's file of a model in a format; converted, then quantised, where it is missing."""
        path = self.work / "gguf" / f"{model}-{fmt}.gguf"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            partial = path.with_suffix(".part.gguf")
            if fmt in ("bf16", "f16"):
                run([self.python, HERE / "convert.py", self.llama_cpp, self.checkpoint(model), partial, fmt])
            else:
                run([self.llama("llama-quantize"), self.gguf(model, "bf16"), partial, fmt.upper(), self.threads])
            partial.rename(path)
        return path

    def plan(self, model, fmt):
        """The plan of a model in a format, built anew: the compiler is what is measured."""
        path = self.work / "plans" / f"{model}-{fmt}.plan"
        path.parent.mkdir(exist_ok=True)
        run([self.jambac, "build", self.checkpoint(model), "-o", path, "--weights", fmt, "--max-context", "2048",
             "--max-sequences", "8", "--prefill-chunk", "512", "--kv-tokens", "16384"])
        return path


def ours(tools, plan, measure):
    """One figure of a plan; for prefill and decode the two of one run."""
    bench = [tools.jamba, "bench", plan, "--threads", tools.threads, "--runs", 1, "--json"]
    if measure.startswith("first token"):
        command = [tools.jamba, "run", plan, "--tokens", "1", "-n", 1, "--ignore-eos", "--threads", tools.threads]
        return {measure: 1 / timed(command + ([] if measure.endswith("checked") else ["--trust-weights"]))}
    if measure == "decode of 8":
        found = json.loads(run([*bench, "--prompt", 16, "--generate", 64, "--batch", 8]))["plans"][0]
        return {measure: found["decode_tokens_per_s"]["median"]}
    found = json.loads(run([*bench, "--prompt", 512, "--generate", 64]))["plans"][0]
    return {name: found[f"{name}_tokens_per_s"]["median"] for name in ("prefill", "decode")}


def theirs(tools, gguf, measure):
    """The same figure of llama.cpp."""
    bench = [tools.llama("llama-bench"), "-m", gguf, "-t", tools.threads, "-ngl", 0, "-r", 1, "-o", "json"]
    if measure.startswith("first token"):
        return {measure: 1 / timed([*bench, "-p", 1, "-n", 0, "--no-warmup"])}
    if measure == "decode of 8":
        found = run([tools.llama("llama-batched-bench"), "-m", gguf, "-t", tools.threads, "-ngl", 0, "-c", 4096, "-npp", 16,
                     "-ntg", 64, "-npl", 8, "--output-format", "jsonl"])
        return {measure: json.loads(next(line for line in found.splitlines() if line.startswith("{")))["speed_tg"]}
    found = json.loads(run([*bench, "-p", 512, "-n", 64]))
    return {"prefill" if row["n_prompt"] else "decode": row["avg_ts"] for row in found}


def timed(command):
    began = time.perf_counter()
    run(command)
    return time.perf_counter() - began


def pairs(tools, plan, gguf, measure, count):
    """`count` pairs of figures by measure: [(ours, theirs)]."""
    found = {}
    for pair in range(count):
        sides = [(ours, plan), (theirs, gguf)]
        figures = [side(tools, path, measure) for side, path in (sides if pair % 2 == 0 else sides[::-1])]
        mine, peer = figures if pair % 2 == 0 else figures[::-1]
        for name in mine:
            found.setdefault(name, []).append((mine[name], peer[name]))
    return found


def summary(measured):
    mine, peer = ([pair[side] for pair in measured] for side in (0, 1))
    ratios = [a / b for a, b in measured]
    spread = lambda values: {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {"ours": spread(mine), "theirs": spread(peer), "ratio": spread(ratios), "pairs": len(measured)}


def transformers(tools, model):
    """Hugging Face in f32 on the same checkpoint: prefill and decode, once."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    out = run([tools.python, HERE / "transformers_speed.py", tools.checkpoint(model), tools.threads], env=environment)
    return json.loads(out.splitlines()[-1])


def table(model, rows, hugging_face):
    lines = [f"## {model}", "", "| | ours | llama.cpp | ratio | aim | pairs |", "|---|---|---|---|---|---|"]
    number = lambda value: f"{value:.3g}" if value < 100 else f"{value:.0f}"
    spread = lambda s: f"{number(s['median'])} ({number(s['min'])} … {number(s['max'])})"
    for row in rows:
        name = f"{MEASURES[row['measure']]}: {row['plan']} against {row['peer']}"
        lines.append(f"| {name} | {spread(row['ours'])} | {spread(row['theirs'])} | {spread(row['ratio'])} | {row['aim']} | {row['pairs']} |")
    if hugging_face:
        lines += ["", f"Hugging Face transformers, f32: prefill {number(hugging_face['prefill'])}, decode {number(hugging_face['decode'])} tokens/s."]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for what is made once")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--measures", default=";".join(MEASURES), help="with semicolons, some of: " + "; ".join(MEASURES))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--no-transformers", action="store_true", help="leave Hugging Face out")
    parser.add_argument("--out", type=pathlib.Path, help="default: benches/results/DATE-peers.md, and .json beside it")
    args = parser.parse_args()
    chosen = args.measures.split(";")
    unknown = set(args.models.split(",")) - set(MODELS) | set(chosen) - set(MEASURES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    tools = Tools(args.work.resolve(), args.threads)
    tools.prepare()
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    report = {"date": datetime.date.today().isoformat(), "cpu": cpu, "threads": args.threads, "models": {}}
    text = f"# {report['date']}: against llama.cpp and transformers\n\n{cpu}, {args.threads} threads; `benches/peers/compare.py`.\n\n"
    for model in args.models.split(","):
        if model != "tiny":
            run([tools.python, HERE / "checkpoints.py", tools.checkpoint(model), model])
        rows, seen, plans = [], {}, {}
        for measure, fmt, peer, aim in ROWS:
            if measure not in chosen or (model == "tiny" and not measure.startswith("first token")):
                continue
            if (measure, fmt, peer) not in seen:
                if fmt not in plans:
                    plans[fmt] = tools.plan(model, fmt)
                for name, measured in pairs(tools, plans[fmt], tools.gguf(model, peer), measure, args.pairs).items():
                    seen[name, fmt, peer] = summary(measured)
            row = {"measure": measure, "plan": fmt, "peer": peer, "aim": aim} | seen[measure, fmt, peer]
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
        hugging_face = None if args.no_transformers or model == "tiny" else transformers(tools, model)
        report["models"][model] = {"rows": rows, "transformers": hugging_face}
        text += table(model, rows, hugging_face) + "\n"
    out = args.out or ROOT / "benches/results" / f"{report['date']}-peers.md"
    out.write_text(text)
    out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
