//! Compiles `lld.cpp` and links lld, from the folder of LLVM.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=src/lld.cpp");
    println!("cargo::rerun-if-env-changed=LLVM_SYS_191_PREFIX");
    let llvm = env::var("LLVM_SYS_191_PREFIX").expect(".cargo/config.toml names LLVM's folder");
    // LLVM is built without run-time type information and exceptions.
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").file("src/lld.cpp").include(format!("{llvm}/include"));
    build.flags(["-fno-rtti", "-fno-exceptions", "-Wno-unused-parameter"]).compile("jambac_lld");
    println!("cargo::rustc-link-search=native={llvm}/lib");
    for library in ["lldELF", "lldCommon"] {
        println!("cargo::rustc-link-lib=static={library}");
    }
    // Libraries that LLVM needs and that not every machine has, or not as new. The bindings ask for shared ones; where static ones are
    // at hand, those come first.
    let compiler = build.get_compiler();
    for library in ["stdc++", "zstd", "ffi", "z"] {
        let name = format!("lib{library}.a");
        let found = compiler.to_command().arg(format!("-print-file-name={name}")).output().map(|output| output.stdout);
        let path = PathBuf::from(String::from_utf8_lossy(&found.unwrap_or_default()).trim());
        // Without the library, the compiler prints the name alone.
        if let Some(folder) = path.parent().filter(|folder| folder.is_absolute()) {
            println!("cargo::rustc-link-search=native={}", folder.display());
            println!("cargo::rustc-link-lib=static={library}");
        }
    }
}
