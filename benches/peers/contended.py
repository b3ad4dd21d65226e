"""Decode rates of a plan on a machine that others use too: alone, beside busy processes, two engines at once, under quotas.

    python3 benches/peers/contended.py PLAN [--llama-bench PROGRAM --gguf FILE] [--rounds 3] [--out FILE]

Every case runs with each number of threads, `--rounds` times in turn, case after case in each round, so that a machine that becomes
slower meanwhile slows all cases. Rates are medians in tokens per second, of both engines together where there are two. A busy
process is a shell that counts. Quotas need a writable control group of version 1 or 2, and are left out in words without one.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def bench(args, program, threads):
    """The command of one engine, and the function that reads its rate."""
    if program == "jamba":
        command = [ROOT / "target/release/jamba", "bench", args.plan, "--threads", threads, "--runs", 3]
        command += ["--prompt", 16, "--generate", args.generate, "--json"]
        return command, lambda out: json.loads(out)["plans"][0]["decode_tokens_per_s"]["median"]
    command = [args.llama_bench, "-m", args.gguf, "-t", threads, "-ngl", 0, "-r", 3, "-p", 0, "-n", args.generate, "-o", "json"]
    return command, lambda out: json.loads(out)[0]["avg_ts"]


@contextlib.contextmanager
def busy(n):
    """`n` processes that each keep a core busy."""
    counters = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(n)]
    try:
        yield
    finally:
        for counter in counters:
            counter.kill()
            counter.wait()


class Quota:
    """A control group with a quota of processor time, for programs that join it before they start."""

    def __init__(self):
        v2, v1 = pathlib.Path("/sys/fs/cgroup/jambac-bench"), pathlib.Path("/sys/fs/cgroup/cpu/jambac-bench")
        self.is_v2 = pathlib.Path("/sys/fs/cgroup/cgroup.controllers").exists()
        self.folder = v2 if self.is_v2 else v1

    def set(self, cores):
        """False where the group cannot be made."""
        try:
            self.folder.mkdir(exist_ok=True)
            if self.is_v2:
                (self.folder / "cpu.max").write_text(f"{int(cores * 100000)} 100000")
            else:
                (self.folder / "cpu.cfs_quota_us").write_text(str(int(cores * 100000)))
            return True
        except OSError:
            return False

    def join(self):
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self):
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def rate(command, read, engines=1, before=None):
    running = [subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=before)
               for _ in range(engines)]
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        sys.exit(f"failed: {' '.join(map(str, command))}")
    return sum(map(read, outputs))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plan", type=pathlib.Path)
    parser.add_argument("--llama-bench", type=pathlib.Path)
    parser.add_argument("--gguf", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--generate", type=int, default=100, help="tokens of a run")
    parser.add_argument("--out", type=pathlib.Path, help="also write the table to this file")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    quota = Quota()
    cases = [("alone", 0, 1, None), ("beside one busy process", 1, 1, None), ("two at once", 0, 2, None)]
    for share in (cores - 0.5, cores / 2):
        if quota.set(share):
            cases.append((f"under a quota of {share:g} cores", 0, 1, share))
        else:
            print("!! no writable control group: quotas were NOT measured", file=sys.stderr)
    programs = ["jamba"] + (["llama-bench"] if args.llama_bench else [])
    columns = [(program, threads) for program in programs for threads in sorted({1, cores})]
    found = {}
    for _ in range(args.rounds):
        for name, neighbours, engines, share in cases:
            if share:
                quota.set(share)
            for program, threads in columns:
                command, read = bench(args, program, threads)
                with busy(neighbours):
                    measured = rate(command, read, engines, quota.join if share else None)
                found.setdefault((name, program, threads), []).append(measured)
                print(f"{name}, {program}, {threads} threads: {measured:.1f}", file=sys.stderr, flush=True)
    quota.remove()
    heads = [f"{program}, {threads} thread{'s' if threads > 1 else ''}" for program, threads in columns]
    number = lambda values: f"{statistics.median(values):.4g} ({min(values):.4g} … {max(values):.4g})"
    lines = [f"| {args.plan.name} | {' | '.join(heads)} |", "|---" * (len(columns) + 1) + "|"]
    for name, *_ in cases:
        lines.append(f"| {name} | {' | '.join(number(found[name, *column]) for column in columns)} |")
    text = f"{datetime.date.today()}, {cores} cores, tokens/s\n\n" + "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
