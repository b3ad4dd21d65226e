//! Compiles `lld.cpp` and links lld, from the folder of LLVM.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=src/lld.cpp");
    println!("cargo::rerun-if-env-changed=LLVM_SYS_191_PREFIX");
    let llvm = env::var("LLVM_SYS_191_PREFIX").expect(".cargo/config.toml names LLVM's folder");
    // LLVM is built without run-time type information and exceptions.
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file("src/lld.cpp")
        .include(format!("{llvm}/include"))
        .flags(["-fno-rtti", "-fno-exceptions", "-Wno-unused-parameter"])
        .compile("jambac_lld");
    println!("cargo::rustc-link-search=native={llvm}/lib");
    for library in ["lldELF", "lldCommon"] {
        println!("cargo::rustc-link-lib=static={library}");
    }
}
