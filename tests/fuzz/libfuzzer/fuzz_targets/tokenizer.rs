//! See `jambac_fuzz::texts::tokenizer`.
#![no_main]
use jambac_fuzz::texts;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("tokenizer", &texts::tokenizers()), |data: &[u8]| texts::tokenizer(data));
