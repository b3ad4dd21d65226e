//! See `jambac_fuzz::commands::model_toml`.
#![no_main]
use jambac_fuzz::commands;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("model_toml", &commands::model_tomls()), |data: &[u8]| commands::model_toml(data));
