//! See `jambac_fuzz::library::library`.
#![no_main]
use jambac_fuzz::library;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("library", &library::calls()), |data: &[u8]| library::library(data));
