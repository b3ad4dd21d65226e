//! See `jambac_fuzz::graphs::graph_text`.
#![no_main]
use jambac_fuzz::graphs;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("graph_text", &graphs::graphs()), |data: &[u8]| graphs::graph_text(data));
