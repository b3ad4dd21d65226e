//! A function of glibc 2.36 that LLVM calls for names of temporary files. With our own, `jambac` starts on glibc 2.34 too: nothing
//! else in it needs a later one.

/// 32 random bits.
#[unsafe(no_mangle)]
extern "C" fn arc4random() -> u32 {
    // As in glibc, there is no way to fail.
    getrandom::u32().unwrap_or_else(|_| std::process::abort())
}
