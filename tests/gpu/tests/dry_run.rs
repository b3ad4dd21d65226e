//! The script for a GPU, on the simulator: a kernel that hangs, one that faults, one that waits for ever and one with a wrong result cost
//! no other result, and each is named.

use std::path::Path;
use std::process::Command;

use gpu_bench::cases::{After, Arg, Before, Case, Cases, Element};
use jamba_plan::format::{Blocks, Launch};
use serde_json::Value;

/// Kernels of one warp that write 7 to each element of `out`; all but the first go wrong first.
const PTX: &str = "\
.version 8.0
.target sm_90a
.address_size 64
.extern .shared .align 1024 .b8 dynamic_shared[];
.visible .entry right(.param .u64 out)
.reqntid 32, 1, 1
{
.reg .b32 %r<4>;
.reg .b64 %rd<4>;
ld.param.u64 %rd1, [out];
mov.u32 %r1, %tid.x;
mul.wide.u32 %rd2, %r1, 4;
add.s64 %rd1, %rd1, %rd2;
mov.u32 %r2, 7;
st.global.u32 [%rd1], %r2;
ret;
}
.visible .entry faults(.param .u64 out)
.reqntid 32, 1, 1
{
trap;
ret;
}
.visible .entry hangs(.param .u64 out)
.reqntid 32, 1, 1
{
L:
bra L;
}
.visible .entry waits(.param .u64 out)
.reqntid 32, 1, 1
{
.reg .pred %p<2>;
.reg .b32 %r<4>;
mov.u32 %r1, dynamic_shared;
mov.u32 %r2, %tid.x;
setp.ne.u32 %p1, %r2, 0;
@%p1 bra W;
mbarrier.init.shared::cta.b64 [%r1], 1;
W:
bar.warp.sync 0xffffffff;
mov.u32 %r3, 0;
{ .reg .pred p; wait: mbarrier.try_wait.parity.shared::cta.b64 p, [%r1], %r3; @p bra done; bra wait; done: }
ret;
}
";

/// The line of the wait in [`PTX`], from one.
fn wait_line() -> usize {
    1 + PTX.lines().position(|line| line.contains("try_wait")).expect("a wait")
}

fn case(symbol: &str, expected: u32) -> Case {
    let bytes = [expected.to_le_bytes(); 32].concat();
    let after = After { elem: Element::Bits, stride: 128, row: 128, bytes };
    let launch = Launch::along_x(Blocks::Fixed(1), 32, 1024);
    let args = vec![Arg::Buffer(Before::Unwritten(128), Some(after))];
    Case { symbol: symbol.to_owned(), launch, counts: [1; 3], args }
}

fn write(folder: &Path, name: &str, cases: &[(&str, u32)]) {
    let cases = cases.iter().map(|&(symbol, expected)| case(symbol, expected)).collect();
    Cases { ptx: PTX.to_owned(), cases }.write(&folder.join(format!("cases/{name}.cases"))).expect("cases are written");
}

#[test]
fn one_bad_kernel_costs_no_other_result() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    std::fs::create_dir(at.join("cases")).expect("a folder");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_gpu-bench"), at.join("gpu-bench")).expect("a link");
    write(at, "a", &[("right", 7), ("right", 8), ("right", 7)]);
    write(at, "b", &[("faults", 7), ("right", 7)]);
    write(at, "c", &[("hangs", 7), ("right", 7)]);
    write(at, "d", &[("waits", 7), ("right", 7)]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("run.py");
    let output = Command::new("python3")
        .arg(&script)
        .arg("run")
        .arg(at)
        // The hang is ended by its limit, everything else by itself, far below it.
        .args(["--simulated", "--deadline", "900", "--limit", "8", "--out"])
        .arg(at.join("out"))
        .output()
        .expect("python3 runs");
    let (printed, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && errors.is_empty(), "{printed}{errors}");
    assert!(printed.lines().all(|line| line.chars().count() <= 110), "{printed}");
    let rows = std::fs::read_to_string(at.join("out/rows.jsonl")).expect("rows");
    let rows: Vec<Value> = rows.lines().map(|row| serde_json::from_str(row).expect("a row")).collect();
    let found = |step: &str, file: &str, case: u64, key: &str| {
        let of = |row: &&Value| row["step"] == step && row["file"] == file && row["case"] == case;
        rows.iter().filter(of).any(|row| !row[key].is_null())
    };
    for (file, case, key) in [
        ("a.cases", 0, "error"),
        ("a.cases", 1, "wrong"),
        ("a.cases", 2, "error"),
        ("b.cases", 0, "fault"),
        ("b.cases", 1, "error"),
        ("c.cases", 1, "error"),
        ("d.cases", 0, "fault"),
        ("d.cases", 1, "error"),
    ] {
        assert!(found("kernels", file, case, key), "{file} {case}: no {key} in\n{printed}");
    }
    let hung = rows.iter().filter(|row| row["step"] == "kernels" && !row["hung"].is_null());
    let hung: Vec<&str> = hung.filter_map(|row| row["arguments"].as_str()).collect();
    assert!(hung.len() == 1 && hung[0].contains("c.cases"), "{hung:?}");
    // The first case of each kernel only, and then the texts that show where one waits.
    assert!(!found("smoke", "a.cases", 1, "wrong") && found("smoke", "d.cases", 0, "fault"));
    let bounded = rows.iter().find(|row| row["file"] == "d.cases" && row["variant"] == "bounded").expect("a variant");
    assert!(bounded["verdict"].as_str().is_some_and(|verdict| verdict.contains("Trap in waits")), "{bounded}");
    let place = rows.iter().find(|row| row["file"] == "d.cases" && !row["hangs_at_wait"].is_null());
    let place = place.unwrap_or_else(|| panic!("no wait is named:\n{printed}"));
    assert_eq!((place["hangs_at_wait"].as_u64(), place["ptx_line"].as_u64()), (Some(0), Some(wait_line() as u64)));
    for step in ["device", "constants"] {
        assert!(
            rows.iter().any(|row| row["step"] == step && row["done_s"].is_null() && row["failed"].is_null()),
            "{printed}"
        );
    }
    assert!(rows.iter().all(|row| row["hangs_at_wait"].is_null() || row["file"] == "d.cases"), "{printed}");
    assert!(at.join("out/result.json").is_file());
}
