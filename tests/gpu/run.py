"""Checks and times kernels and plans on a Hopper GPU.

    python3 tests/gpu/run.py pack FOLDER      # where the compiler is: builds and gathers all that a run needs, under 60 MiB
    python3 FOLDER/run.py run FOLDER            # where the GPU is: no Rust, no LLVM, no network; Python with torch

Steps, in this order. A failed step is reported and does not stop the others; the exit status is nonzero then.

1. every recorded kernel launch, against the results of the simulator (`kernels`)
2. tiny and mid end to end against their CPU programs: chunks, greedy tokens, ragged batches, many sequences, graphs, state,
   picks
3. the greedy tokens of tiny under compute-sanitizer, where there is one: memcheck, racecheck, synccheck
4. synthetic weights of mid, the 3B and Mini drawn on the GPU, compared with the host and timed
5. peaks in the same run: a large copy, and a large bf16 matrix product by torch
6. decode and prefill of the 3B and Mini (int8 experts) with synthetic weights, with graphs and without, with fusions and
   without, and each kernel's share of the roofline

Prints one table, and writes FOLDER/result.json.
"""

import argparse
import datetime
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import time

HERE = pathlib.Path(__file__).resolve().parent
MOST_BYTES = 60 << 20

# Name, model folder or None for mid, arguments of jambac build.
PLANS = [
    ("tiny", "models/tiny", ["--target", "x86-64-v3", "--target", "sm_90a", "--max-context", "512", "--max-sequences", "10",
                             "--prefill-chunk", "150", "--max-outputs", "150"]),
    ("mid", None, ["--target", "x86-64-v3", "--target", "sm_90a", "--synthetic-weights", "1", "--max-context", "1024",
                   "--max-sequences", "10", "--prefill-chunk", "150", "--max-outputs", "150"]),
    ("3b", "models/jamba-3b", ["--target", "sm_90a", "--synthetic-weights", "1", "--max-context", "16384", "--max-sequences", "64",
                               "--kv-tokens", "262144", "--prefill-chunk", "8192", "--max-outputs", "64"]),
    ("mini", "models/jamba-mini", ["--target", "sm_90a", "--synthetic-weights", "1", "--experts", "int8", "--max-context", "131072",
                                   "--max-sequences", "64", "--kv-tokens", "262144", "--prefill-chunk", "8192", "--max-outputs", "64"]),
]
# The same without fusions.
PLANS += [(f"{name}-unfused", model, [*arguments, "--fusion", "none"]) for name, model, arguments in PLANS if name in ("3b", "mini")]

# Plan, sequences, tokens of context.
TIMES = [
    ("3b", 1, 1024), ("3b", 8, 1024), ("3b", 16, 1024), ("3b", 64, 1024), ("3b", 1, 8192),
    ("mini", 1, 1024), ("mini", 8, 1024), ("mini", 16, 1024), ("mini", 64, 1024), ("mini", 1, 8192), ("mini", 1, 65536),
    ("3b-unfused", 1, 1024), ("3b-unfused", 64, 1024), ("mini-unfused", 1, 1024), ("mini-unfused", 64, 1024),
]


def sh(*command, **options):
    """Runs a command and returns what it prints."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def pack(folder):
    """Packs programs, plans, recorded launches and a text."""
    root = HERE.parents[1]
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    folder.mkdir(parents=True)
    sh("cargo", "build", "--release", "--workspace", cwd=root)
    for program in ("jamba", "gpu-bench"):
        shutil.copy(target / "release" / program, folder)
        sh("strip", folder / program)
    shutil.copy(__file__, folder / "run.py")
    for name, model, arguments in PLANS:
        if model is None:
            model = folder / "mid"
            model.mkdir()
            sys.path.insert(0, str(root / "benches/peers"))
            import models
            (model / "config.json").write_text(json.dumps(models.MODELS["mid"]))
        sh(target / "release/jambac", "build", root / model, "-o", folder / f"{name}.plan", *arguments)
    prompt = (root / "models/tiny/heldout.txt").read_text()[:1200]
    answer = json.loads(sh(target / "release/jamba", "run", folder / "tiny.plan", "-n", 1, "--json", "--prompt", prompt))
    ids = answer["prompt_tokens"][:300]
    (folder / "text.json").write_text(json.dumps(ids))
    cases = folder / "cases"
    cases.mkdir()
    sh("cargo", "test", "--release", "-p", "jambac-tests", "--", "sm90::", "--skip", "sm90::plan", "--skip", "assembly", "--skip",
       "mutants", cwd=root, env=os.environ | {"JAMBA_KERNEL_CASES": str(cases)})
    with tarfile.open(folder / "cases.tar.xz", "w:xz") as archive:
        archive.add(cases, "cases")
    shutil.rmtree(cases)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 2**20:.1f} MiB")
    if size > MOST_BYTES:
        sys.exit(f"{size} bytes are more than {MOST_BYTES}")


class Run:
    """Results so far."""

    def __init__(self, folder):
        self.folder = folder
        self.result = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "failed": {}}

    def step(self, name, action):
        """Runs a step; records and prints a failure."""
        began = time.monotonic()
        try:
            self.result[name] = action()
            skipped = self.result[name] if isinstance(self.result[name], str) else None
            print(f"{name}: {skipped or f'done in {time.monotonic() - began:.0f} s'}", flush=True)
        except Exception as error:
            self.result["failed"][name] = str(error)
            print(f"{name}: FAILED\n{error}", flush=True)
        (self.folder / "result.json").write_text(json.dumps(self.result, indent=1))

    def bench(self, *arguments, limit=600):
        return lines(sh(self.folder / "gpu-bench", *arguments, timeout=limit))

    def kernels(self):
        with tarfile.open(self.folder / "cases.tar.xz") as archive:
            archive.extractall(self.folder, filter="data")
        verdicts, failed = [], []
        for file in sorted((self.folder / "cases").glob("*.cases")):
            try:
                verdicts += self.bench("kernels", file)
            except RuntimeError as error:
                failed.append(f"{file.name}: {error}")
        if failed:
            self.result["kernels that agree"] = verdicts
            raise RuntimeError("\n".join(failed))
        return verdicts

    def plan(self, name, tolerance):
        return self.bench("plan", self.folder / f"{name}.plan", "--text", self.folder / "text.json", "--tolerance", tolerance)

    def sanitizer(self):
        program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
        if program is None:
            return "SKIPPED: no compute-sanitizer in PATH or /usr/local/cuda/bin"
        check = [self.folder / "gpu-bench", "plan", self.folder / "tiny.plan", "--text", self.folder / "text.json", "--check", "greedy"]
        found = {}
        for tool in ("memcheck", "racecheck", "synccheck"):
            done = subprocess.run([program, "--tool", tool, "--error-exitcode", "9", *check], capture_output=True, text=True, timeout=900)
            found[tool] = "clean" if done.returncode == 0 else (done.stdout + done.stderr)[-3000:]
        if any(text != "clean" for text in found.values()):
            raise RuntimeError(json.dumps(found, indent=1))
        return found

    def draws(self):
        return [row | {"plan": name} for name in ("mid", "3b", "mini") for row in self.bench("draw", self.folder / f"{name}.plan")]

    def peaks(self):
        found = self.bench("device")[0]
        import torch
        n = 8192
        a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        for _ in range(3):
            a @ b
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(20):
            a @ b
        torch.cuda.synchronize()
        found["operations_per_s"] = 20 * 2 * n**3 / (time.perf_counter() - began)
        del a, b
        torch.cuda.empty_cache()
        return found

    def times(self):
        found = []
        for name, sequences, context in TIMES:
            for graphs in (True, False) if context == 1024 and sequences == 1 else (True,):
                arguments = ["time", self.folder / f"{name}.plan", "--sequences", sequences, "--context", context]
                row = self.bench(*arguments, *([] if graphs else ["--launch-each"]))[0]
                found.append(row | {"plan": name, "graphs": graphs})
        return found

    def table(self):
        """Prints the results as a table."""
        peaks = self.result.get("peaks") or {}
        bandwidth, flops = peaks.get("bytes_per_s"), peaks.get("operations_per_s")
        print(f"\n{peaks.get('device', 'no device')}: copies {bandwidth or 0:.3g} B/s, products {flops or 0:.3g} operations/s")
        for name in ("tiny", "mid"):
            for check in self.result.get(name, []):
                print(f"  {name:<5} {check['check']:<15} {check['difference'] or 'same bits'}  {check['note']}")
        for row in self.result.get("draws", []):
            print(f"  {row['plan']:<5} {row['bytes'] / 1e9:.2f} GB of weights drawn in {1e3 * row['seconds']:.1f} ms, "
                  f"{row['bytes'] / 1e9 / row['seconds']:.0f} GB/s; {row['compared_bytes'] / 1e6:.0f} MB compared, the same bits")
        for row in self.result.get("times", []):
            step = row["sequences"] / row["decode_tokens_per_s"]
            decode = [kernel for kernel in row["kernels"] if kernel["entry"] == "decode"]
            share = sum(kernel["bytes"] for kernel in decode) / step / bandwidth if bandwidth else 0
            graphs = "graphs" if row["graphs"] else "launches"
            print(f"  {row['plan']:<12} {row['sequences']:>3} x {row['context']:>6} {graphs:<8} prefill {row['prefill_tokens_per_s']:>9.0f}"
                  f"  decode {row['decode_tokens_per_s']:>8.1f} tokens/s  {100 * share:.0f} % of the bandwidth"
                  f"  {row['driver_bytes'] / 1e6:.0f} MB more than stated")
            if row["sequences"] in (1, 64) and row["graphs"] and bandwidth and flops:
                for kernel in row["kernels"][:12]:
                    # Launch and synchronization are not part of the kernel.
                    seconds = max(kernel["seconds"] - kernel["launches"] * row["overhead_s"], 1e-9)
                    least = max(kernel["bytes"] / bandwidth, kernel["operations"] / flops)
                    print(f"      {kernel['entry']:<8} {kernel['launches']:>4} x {1e6 * seconds / kernel['launches']:>8.1f} us "
                          f"{100 * least / seconds:>4.0f} % of the roofline  {kernel['symbol']}")


def run(folder):
    found = Run(folder)
    found.step("kernels", found.kernels)
    found.step("tiny", lambda: found.plan("tiny", 0.15))
    found.step("mid", lambda: found.plan("mid", 0.3))
    found.step("compute-sanitizer", found.sanitizer)
    found.step("draws", found.draws)
    found.step("peaks", found.peaks)
    found.step("times", found.times)
    found.table()
    if found.result["failed"]:
        sys.exit(f"failed: {', '.join(found.result['failed'])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["pack", "run"])
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    {"pack": pack, "run": run}[arguments.action](arguments.folder.resolve())


if __name__ == "__main__":
    main()
