//! Compiles `lld.cpp` and links lld, from the folder of LLVM.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::{env, fs};

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
    // Link LLVM's dependencies statically where static libraries are installed: other machines may lack them or have older versions. The
    // bindings pass `-lNAME`, and this search folder holds static libraries only.
    let folder = PathBuf::from(env::var("OUT_DIR").expect("Cargo sets it")).join("static");
    fs::create_dir_all(&folder).expect("OUT_DIR can be written");
    let compiler = build.get_compiler();
    for name in ["libstdc++.a", "libzstd.a", "libz.a", "libffi.a"] {
        let found = compiler.to_command().arg(format!("-print-file-name={name}")).output().map(|output| output.stdout);
        let path = PathBuf::from(String::from_utf8_lossy(&found.unwrap_or_default()).trim());
        let link = folder.join(name);
        let _ = fs::remove_file(&link); // of an earlier run
        // Without the library, the compiler prints the name alone.
        if path.is_absolute() {
            symlink(path, link).expect("OUT_DIR can be written");
        }
    }
    println!("cargo::rustc-link-search=native={}", folder.display());
    // LLVM's interpreter needs libffi, and no other crate links it.
    let kind = if folder.join("libffi.a").exists() { "static" } else { "dylib" };
    println!("cargo::rustc-link-lib={kind}=ffi");
}
