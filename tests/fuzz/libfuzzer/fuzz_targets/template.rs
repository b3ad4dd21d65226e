//! See `jambac_fuzz::texts::template`.
#![no_main]
use jambac_fuzz::texts;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("template", &texts::templates()), |data: &[u8]| texts::template(data));
