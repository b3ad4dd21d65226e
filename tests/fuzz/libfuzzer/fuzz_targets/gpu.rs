//! See `jambac_fuzz::gpu::gpu`.
#![no_main]
use jambac_fuzz::gpu;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("gpu", &gpu::acts()), |data: &[u8]| gpu::gpu(data));
