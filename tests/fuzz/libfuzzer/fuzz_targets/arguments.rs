//! See `jambac_fuzz::commands::arguments`.
#![no_main]
use jambac_fuzz::commands;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("arguments", &commands::command_lines()), |data: &[u8]| commands::arguments(data));
