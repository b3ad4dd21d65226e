//! See `jambac_fuzz::checkpoints::config`.
#![no_main]
use jambac_fuzz::checkpoints;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("config", &checkpoints::configs()), |data: &[u8]| checkpoints::config(data));
