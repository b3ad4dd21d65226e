"""Checks and times kernels and plans on a Hopper GPU, in a few minutes.

    python3 tests/gpu/run.py pack FOLDER                   # where the compiler is: all that a run needs, at most 50 MiB
    python3 FOLDER/run.py run FOLDER --out OUT             # where the GPU is: no Rust, no LLVM, no network; Python, torch if there

A run ends before its deadline (530 s). Its steps are ordered by value: constants of the device; one case of each kernel; tiny; the
headline rows; all kernels; the rest of tiny, and mid; sanitizers; drawn weights, long contexts, plans without fusions. Each step is a
process with a limit of its own. A step whose estimate exceeds the time that is left is skipped by name. A failed, hanging or faulting
step ends nothing but itself. A kernel that fails is tried again in other texts (`gpu-bench kernels --variant`), and a hang is
traced to its wait.

Every result is a line of OUT/rows.jsonl as soon as it is found, and one printed line of at most 110 characters. OUT/result.json has
all of them at the end. The exit status is 0 unless the script itself breaks.
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
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
MOST_BYTES = 50 << 20
DEADLINE_S = 530
FAULT = 2  # exit code of gpu-bench after a fault of the device

ON_GPU = ["--target", "sm_90a", "--synthetic-weights", "1", "--max-sequences", "64", "--kv-tokens", "262144", "--prefill-chunk", "8192",
          "--max-outputs", "64"]
SMALL = ["--target", "x86-64-v3", "--target", "sm_90a", "--max-sequences", "10", "--prefill-chunk", "150", "--max-outputs", "150"]

# Name, model folder or None for mid, arguments of jambac build.
PLANS = [
    ("tiny", "models/tiny", [*SMALL, "--max-context", "512"]),
    ("mid", None, [*SMALL, "--synthetic-weights", "1", "--max-context", "1024"]),
    ("3b", "models/jamba-3b", [*ON_GPU, "--max-context", "16384"]),
    ("3b-int8", "models/jamba-3b", [*ON_GPU, "--max-context", "16384", "--weights", "int8"]),
    ("mini", "models/jamba-mini", [*ON_GPU, "--max-context", "131072", "--experts", "int8"]),
    ("mini-int8", "models/jamba-mini", [*ON_GPU, "--max-context", "131072", "--weights", "int8"]),
    ("3b-unfused", "models/jamba-3b", [*ON_GPU, "--max-context", "16384", "--fusion", "none"]),
    ("mini-unfused", "models/jamba-mini", [*ON_GPU, "--max-context", "131072", "--experts", "int8", "--fusion", "none"]),
]

# Plan, sequences, tokens of context: the rows to have if there is time for nothing else.
HEADLINE = [("mini-int8", 1, 1024), ("3b", 1, 1024), ("mini", 1, 1024), ("3b", 64, 1024), ("mini", 64, 1024), ("mini-int8", 64, 1024),
            ("3b-int8", 1, 1024), ("3b", 8, 1024), ("mini", 8, 1024), ("3b", 1, 8192), ("mini", 1, 8192)]
REST = [("3b", 16, 1024), ("mini", 16, 1024), ("3b", 32, 1024), ("mini", 1, 65536), ("3b", 16, 8192), ("3b-unfused", 1, 1024),
        ("mini-unfused", 1, 1024), ("3b-unfused", 64, 1024), ("mini-unfused", 64, 1024)]

TINY_FIRST = ["greedy", "chunks", "graphs"]


def sh(*command, **options):
    """Runs a command and returns what it prints."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def with_ptxas(target, folder):
    """The environment with a ptxas in PATH: an installed one, or the one that the tests fetched."""
    fetched = sorted((target / "tmp/cuda").glob("ptxas-*"))
    if shutil.which("ptxas") or not fetched:
        return os.environ
    (folder / "ptxas").symlink_to(fetched[-1].resolve())
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}


def pack(folder):
    """Packs programs, plans with assembled code, recorded launches and a text."""
    root = HERE.parents[1]
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    folder.mkdir(parents=True)
    sh("cargo", "build", "--release", "--workspace", cwd=root)
    shutil.copy(target / "release/gpu-bench", folder)
    sh("strip", folder / "gpu-bench")
    shutil.copy(__file__, folder / "run.py")
    cases = folder / "cases"
    cases.mkdir()
    sh("cargo", "test", "--release", "--workspace", "--test", "main", "--", "sm90::", "--skip", "sm90::plan", "--skip", "assembly",
       "--skip", "mutants", "--skip", "predict", cwd=root, env=os.environ | {"JAMBA_KERNEL_CASES": str(cases)})
    with tarfile.open(folder / "cases.tar.xz", "w:xz") as archive:
        archive.add(cases, "cases")
    shutil.rmtree(cases)
    with tempfile.TemporaryDirectory() as programs:
        environment = with_ptxas(target, pathlib.Path(programs))
        for name, model, arguments in PLANS:
            if model is None:
                model = folder / "mid"
                model.mkdir()
                sys.path.insert(0, str(root / "benches/peers"))
                import models
                (model / "config.json").write_text(json.dumps(models.MODELS["mid"]))
            sh(target / "release/jambac", "build", root / model, "-o", folder / f"{name}.plan", *arguments, env=environment)
    prompt = (root / "models/tiny/heldout.txt").read_text()[:1200]
    answer = json.loads(sh(target / "release/jamba", "run", folder / "tiny.plan", "-n", 1, "--json", "--prompt", prompt))
    (folder / "text.json").write_text(json.dumps(answer["prompt_tokens"][:300]))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 2**20:.1f} MiB")
    if size > MOST_BYTES:
        sys.exit(f"{size} bytes are more than {MOST_BYTES}")


class Run:
    """A run with a deadline. Rows are written as they are found."""

    def __init__(self, folder, out, deadline, simulated, limit):
        self.folder, self.out, self.simulated, self.limit = folder, out, simulated, limit
        self.end = time.monotonic() + deadline
        self.rows = []
        out.mkdir(parents=True, exist_ok=True)
        (out / "rows.jsonl").write_text("")

    def left(self):
        return self.end - time.monotonic()

    def row(self, step, **fields):
        """Keeps and prints a result."""
        row = {"step": step, **fields}
        self.rows.append(row)
        with open(self.out / "rows.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        text = " ".join(f"{key}={short(value)}" for key, value in fields.items() if not isinstance(value, (dict, list)))
        print(f"{step}: {text}"[:110], flush=True)

    def bench(self, step, *arguments, seconds=30, told=None, prefix=()):
        """Runs gpu-bench and calls `told` with each of its rows; by default they are kept. Returns its exit code; None after a hang."""
        told = told or (lambda row: self.row(step, **row))
        seconds = min(self.limit or seconds, max(self.left(), 1))
        program = [*prefix, self.folder / "gpu-bench", *(["--simulated"] if self.simulated else []), *arguments]
        process = subprocess.Popen([str(word) for word in program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        errors = []
        reader = threading.Thread(target=lambda: errors.append(process.stderr.read()), daemon=True)
        reader.start()
        hung = threading.Event()
        killer = threading.Timer(seconds, lambda: (hung.set(), process.kill()))
        killer.start()
        for line in process.stdout:
            if line.startswith(("{", "[")):
                told(json.loads(line))
        code = process.wait()
        killer.cancel()
        reader.join(5)
        if hung.is_set():
            self.row(step, hung=f"after {seconds:.0f} s", arguments=" ".join(map(str, arguments)))
            return None
        if code not in (0, FAULT):
            self.row(step, failed=("".join(errors).strip() or f"exit code {code}")[-2000:])
        return code

    def step(self, name, estimate, action):
        """Runs a step if there is time for it. Nothing that it does ends the run."""
        if self.left() < estimate:
            self.row(name, skipped=f"needs {estimate} s, {max(self.left(), 0):.0f} s are left")
            return
        began = time.monotonic()
        try:
            action(name)
        except Exception as error:  # a step ends nothing but itself
            self.row(name, failed=f"{type(error).__name__}: {error}"[-2000:])
        self.row(name, done_s=round(time.monotonic() - began, 1))

    def peaks(self, name):
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
        self.row(name, operations_per_s=20 * 2 * n**3 / (time.perf_counter() - began))

    def files(self):
        if not (self.folder / "cases").exists() and (self.folder / "cases.tar.xz").exists():
            with tarfile.open(self.folder / "cases.tar.xz") as archive:
                archive.extractall(self.folder, filter="data")
        return sorted((self.folder / "cases").glob("*.cases"))

    def kernels(self, name, smoke):
        """Runs recorded cases, one process a file; goes on behind a case that hangs or faults."""
        for file in self.files():
            first = 0
            while first is not None and self.left() > 5:
                last, wrong = first - 1, []

                def told(row, file=file):
                    nonlocal last
                    last = row["case"]
                    if "error" not in row:
                        wrong.append(row)
                    self.row(name, file=file.name, **row)

                arguments = ["kernels", file, "--from", first, *(["--smoke"] if smoke else [])]
                code = self.bench(name, *arguments, seconds=20, told=told)
                # A hang says no case; it is the one after the last that was told.
                first = {None: last + 2, FAULT: last + 1}.get(code)
                failed = last + 1 if code is None else last
                if smoke and (wrong or code is None):
                    self.variants(name, file, failed if code is None else wrong[-1]["case"])

    def variants(self, name, file, case):
        """Runs a failing case in other texts, and finds the wait at which it hangs."""
        outcomes = {}
        for variant in ("bounded", "cautious"):
            if self.left() < 10:
                return
            told = lambda row, variant=variant: outcomes.setdefault(variant, row)
            if self.bench(name, "kernels", file, "--from", case, "--smoke", "--variant", variant, seconds=10, told=told) is None:
                outcomes[variant] = {"hung": True}
            row = outcomes.get(variant, {})
            verdict = next((f"{key} {row[key]}" for key in ("error", "wrong", "fault", "hung") if key in row), "nothing told")
            self.row(name, file=file.name, case=case, variant=variant, verdict=verdict)
        if "fault" not in outcomes.get("bounded", {}):
            return
        lines = []
        self.bench(name, "waits", file, told=lines.extend)

        def faults(wait):
            first = []
            arguments = ["kernels", file, "--from", case, "--smoke", "--variant", f"bounded:{wait}"]
            self.bench(name, *arguments, seconds=10, told=first.append)
            return bool(first) and "fault" in first[0]

        if faults(len(lines)):
            return  # not at a wait: no wait traps in this text
        for wait, line in enumerate(lines):
            if self.left() < 10:
                return
            if faults(wait):
                self.row(name, file=file.name, case=case, hangs_at_wait=wait, ptx_line=line)

    def plan(self, name, plan, tolerance, checks):
        for check in checks:
            arguments = ["plan", self.folder / f"{plan}.plan", "--text", self.folder / "text.json", "--tolerance", tolerance]
            self.bench(name, *arguments, *(["--check", check] if check else []), seconds=60)

    def times(self, name, rows, graphs=True):
        for plan, sequences, context in rows:
            if not (self.folder / f"{plan}.plan").exists():
                continue
            if self.left() < 15:
                self.row(name, skipped=f"{plan} {sequences} x {context}")
                continue
            arguments = ["time", self.folder / f"{plan}.plan", "--sequences", sequences, "--context", context]
            told = lambda row, plan=plan: self.row(name, **row | {"plan": plan, "graphs": graphs})
            self.bench(name, *arguments, *([] if graphs else ["--launch-each"]), seconds=60, told=told)

    def sanitizer(self, name, tools):
        program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
        if program is None:
            self.row(name, skipped="no compute-sanitizer in PATH or /usr/local/cuda/bin")
            return
        for tool in tools:
            prefix = [program, "--tool", tool, "--error-exitcode", "9"]
            arguments = ["plan", self.folder / "tiny.plan", "--text", self.folder / "text.json", "--check", "greedy"]
            code = self.bench(name, *arguments, seconds=40, told=lambda row: None, prefix=prefix)
            self.row(name, tool=tool, clean=code == 0)

    def draws(self, name):
        for plan in ("mid", "3b", "mini"):
            if (self.folder / f"{plan}.plan").exists():
                self.bench(name, "draw", self.folder / f"{plan}.plan", told=lambda row, plan=plan: self.row(name, plan=plan, **row))

    def all(self):
        has = lambda plan: (self.folder / f"{plan}.plan").exists()
        self.step("device", 10, lambda name: self.bench(name, "device"))
        self.step("constants", 15, lambda name: self.bench(name, "constants"))
        if not self.simulated:
            self.step("torch", 15, self.peaks)
        self.step("smoke", 20, lambda name: self.kernels(name, smoke=True))
        if has("tiny"):
            self.step("tiny first", 20, lambda name: self.plan(name, "tiny", 0.15, TINY_FIRST))
        self.step("headline", 30, lambda name: self.times(name, HEADLINE))
        self.step("kernels", 30, lambda name: self.kernels(name, smoke=False))
        if has("tiny"):
            self.step("tiny", 30, lambda name: self.plan(name, "tiny", 0.15, [None]))
        if has("mid"):
            self.step("mid", 30, lambda name: self.plan(name, "mid", 0.3, [None]))
        if not self.simulated:
            self.step("memory", 45, lambda name: self.sanitizer(name, ["memcheck", "initcheck"]))
        self.step("draws", 20, self.draws)
        self.step("times", 20, lambda name: self.times(name, REST))
        self.step("launches", 20, lambda name: self.times(name, [("3b", 1, 1024), ("mini", 1, 1024)], graphs=False))
        if not self.simulated:
            self.step("races", 45, lambda name: self.sanitizer(name, ["racecheck", "synccheck"]))
        (self.out / "result.json").write_text(json.dumps(self.rows, indent=1))


def short(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("\n", " ")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["pack", "run"])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, help="where rows go; FOLDER by default")
    parser.add_argument("--deadline", type=float, default=DEADLINE_S, help="seconds")
    parser.add_argument("--limit", type=float, help="seconds that each process may take, instead of each step's own")
    parser.add_argument("--simulated", action="store_true", help="a dry run on the PTX simulator")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if arguments.action == "pack":
        pack(folder)
    else:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        run = Run(folder, (arguments.out or folder).resolve(), arguments.deadline, arguments.simulated, arguments.limit)
        run.row("run", date=now, deadline_s=arguments.deadline)
        run.all()


if __name__ == "__main__":
    main()
