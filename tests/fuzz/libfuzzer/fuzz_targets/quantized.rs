//! See `jambac_fuzz::quantized::quantized`.
#![no_main]
use jambac_fuzz::quantized;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("quantized", &quantized::seeds()), |data: &[u8]| quantized::quantized(data));
