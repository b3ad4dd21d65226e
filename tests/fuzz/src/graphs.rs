//! The text form of graphs, and the passes.

use jambac_graph::{text, verify};
use jambac_passes::{Fusion, PassManager};

use crate::file;

/// What is printed is parsed to the same text.
pub fn graph_text(data: &[u8]) {
    let Ok(source) = str::from_utf8(data) else { return };
    let Ok(graph) = text::parse(source) else { return };
    let printed = text::print(&graph);
    match text::parse(&printed) {
        Ok(again) => assert_eq!(text::print(&again), printed),
        Err(error) => panic!("{error} in what was printed:\n{printed}"),
    }
    if let Err(error) = verify::verify(&graph) {
        let _ = text::print_error(&graph, &error);
    }
}

/// `jambac opt`: passes accept every sound graph and leave a sound one.
pub fn graph_passes(data: &[u8]) {
    let Ok(source) = str::from_utf8(data) else { return };
    let Ok(mut graph) = text::read(source) else { return };
    let all: Fusion = "all".parse().expect("all passes");
    if let Err(error) = PassManager::new(&all).run(&mut graph) {
        panic!("{error} of a sound graph:\n{source}");
    }
    let printed = text::print(&graph);
    if let Err(error) = text::read(&printed) {
        panic!("{error} after the passes:\n{printed}");
    }
}

const SMALL: &str = r#"graph @decode one_token {
  %0 = input "ids" : i32[tokens]
  %1 = parameter "e" : f32[40, 16]
  %2 = embed %0, %1 : f32[tokens, 16]
  %3 = parameter "n" : f32[16]
  %4 = rms_norm %2, %3 {eps = 1e-6} : f32[tokens, 16]
  %5 = parameter "w" : f32[32, 16]
  %6 = linear %4, %5 : f32[tokens, 32]
  %7 = slice %6 {start = 0, len = 16} : f32[tokens, 16]
  %8 = slice %6 {start = 16, len = 16} : f32[tokens, 16]
  %9 = silu %7 : f32[tokens, 16]
  %10 = mul %9, %8 : f32[tokens, 16]
  %11 = add %2, %10 : f32[tokens, 16]
  output "x" = %11
}
"#;

pub fn graphs() -> Vec<Vec<u8>> {
    // Parts of a whole model, cut where a line ends, and one whole model. Short inputs take less time.
    let whole = file("tests/golden/tour/02.decode.graph");
    let text = String::from_utf8_lossy(&whole).into_owned();
    let part = |n: usize| text.lines().take(n).collect::<Vec<_>>().join("\n") + "\n}\n";
    vec![SMALL.as_bytes().to_vec(), part(12).into_bytes(), part(40).into_bytes(), whole]
}
