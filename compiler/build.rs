//! Passes the commit to the program's version. Links the binary so that the parts of LLVM and MLIR that it does not use are left out.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rustc-env=JAMBA_COMMIT={}", commit().as_deref().map_or("unknown commit", str::trim));
    // libMLIR.so is on the linker's command line, though nothing needs it. Without this option the linker exports every symbol that
    // the binary shares with it, and keeps the code behind it.
    println!("cargo::rustc-link-arg-bins=-Wl,--exclude-libs,ALL");
}

fn commit() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=9", "HEAD"]).output().ok()?;
    if output.status.success() { String::from_utf8(output.stdout).ok() } else { None }
}
