//! Links the binary so that the parts of LLVM and MLIR that it does not use are left out.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // libLLVM.so and libMLIR.so are on the linker's command line, though nothing needs them. Without this option the linker exports
    // every symbol that the binary shares with them, and keeps the code behind it.
    println!("cargo::rustc-link-arg-bins=-Wl,--exclude-libs,ALL");
}
