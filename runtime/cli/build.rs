//! Passes the commit to the program's version.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src");
    let output = Command::new("git").args(["rev-parse", "--short=9", "HEAD"]).output();
    let commit =
        output.ok().filter(|output| output.status.success()).and_then(|output| String::from_utf8(output.stdout).ok());
    println!("cargo::rustc-env=JAMBA_COMMIT={}", commit.as_deref().map_or("unknown commit", str::trim));
}
