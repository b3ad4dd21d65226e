//! Starting a build from the text form of a phase, as `--dump-dir` and `--emit` write it.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail, ensure};
use jambac_graph::{DType, Dim, Graph, Op, Symbol, text};

use super::Entries;
use super::phase::{Phase, names};
use crate::report::beginning;

/// The result of a phase that is given instead of computed.
#[derive(Clone)]
pub struct Resume {
    pub phase: Phase,
    pub entries: Entries,
}

impl Resume {
    /// Reads the graphs of both entries: a file each in any order, or one file with both.
    ///
    /// # Errors
    /// A phase whose text form has no parser; graphs that are missing or broken, with the file and the place in it.
    pub fn read(phase: Phase, files: &[PathBuf]) -> Result<Resume> {
        ensure!(
            Phase::RESUMABLE.contains(&phase),
            "--from: found {phase}, expected a phase whose text can be read back: {}",
            names(&Phase::RESUMABLE)
        );
        let (mut prefill, mut decode) = (None, None);
        for path in files {
            let all = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            for (first_line, part) in graphs(&all) {
                let refused = |error: jambac_graph::Error| {
                    let error = beginning(&error.to_string());
                    anyhow!("{}, graph at line {first_line}: {error}", path.display())
                };
                let graph = text::read(part).map_err(refused)?;
                let entry = match graph.name.as_str() {
                    "prefill" => &mut prefill,
                    "decode" => &mut decode,
                    name => bail!("{}: found graph @{name}, expected @prefill or @decode", path.display()),
                };
                if let Some(Graph { name, .. }) = entry.replace(graph) {
                    bail!("{}: found a second graph @{name}, expected one", path.display());
                }
            }
        }
        let missing = |name: &str| format!("--from {phase}: the files have no graph @{name}");
        let prefill = prefill.with_context(|| missing("prefill"))?;
        let decode = decode.with_context(|| missing("decode"))?;
        // Without attention layers there is no cache, and the type has no effect.
        let kv_dtype = stored_kv(&prefill).unwrap_or(DType::F32);
        Ok(Resume { phase, entries: Entries { prefill, decode, kv_dtype } })
    }
}

/// The graphs in a text, each with its first line. A graph begins on a line that starts with `graph`.
fn graphs(text: &str) -> Vec<(usize, &str)> {
    let mut begins: Vec<(usize, usize)> = Vec::new(); // line, byte
    let mut at = 0;
    for (line, content) in text.split_inclusive('\n').enumerate() {
        if content.starts_with("graph") {
            begins.push((line + 1, at));
        }
        at += content.len();
    }
    let ends = begins.iter().skip(1).map(|&(_, byte)| byte).chain([text.len()]);
    begins.iter().zip(ends).map(|(&(line, begin), end)| (line, &text[begin..end])).collect()
}

/// The stored type of keys and values: that of the first state with the context as a dimension.
fn stored_kv(graph: &Graph) -> Option<DType> {
    graph.order().into_iter().find_map(|node| match graph.op(node) {
        Op::State { ty, .. } if ty.shape.contains(&Dim::Symbol(Symbol::Context)) => Some(ty.dtype),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRIES: &str = "// both entries\ngraph @prefill {\n  %0 = input \"x\" : f32[tokens, 4]\n  output \"y\" = %0\n}\n\
                           graph @decode one_token {\n  %0 = input \"x\" : f32[tokens, 4]\n  output \"y\" = %0\n}\n";

    fn read(phase: Phase, texts: &[&str]) -> Result<Resume> {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..texts.len()).map(|i| folder.path().join(format!("{i}.graph"))).collect();
        paths.iter().zip(texts).for_each(|(path, text)| std::fs::write(path, text).unwrap());
        Resume::read(phase, &paths)
    }

    #[track_caller]
    fn refused(phase: Phase, texts: &[&str], part: &str) {
        let error = format!("{:#}", read(phase, texts).err().expect("an error"));
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn entries_come_from_one_file_or_two() {
        let (prefill, decode) = ENTRIES.split_at(ENTRIES.find("graph @decode").unwrap());
        for texts in [&[ENTRIES][..], &[prefill, decode], &[decode, prefill]] {
            let Resume { entries, .. } = read(Phase::Optimized, texts).unwrap();
            assert_eq!((entries.prefill.name.as_str(), entries.prefill.one_token), ("prefill", false));
            assert_eq!((entries.decode.name.as_str(), entries.decode.one_token), ("decode", true));
        }
    }

    #[test]
    fn what_is_wrong_with_the_files_is_named() {
        let (prefill, decode) = ENTRIES.split_at(ENTRIES.find("graph @decode").unwrap());
        refused(
            Phase::Schedule,
            &[ENTRIES],
            "found schedule, expected a phase whose text can be read back: graph, optimized",
        );
        refused(Phase::Graph, &[prefill], "no graph @decode");
        refused(Phase::Graph, &[ENTRIES, decode], "a second graph @decode");
        refused(Phase::Graph, &[&ENTRIES.replace("@decode", "@generate")], "found graph @generate");
        let broken = ENTRIES.replace("output \"y\" = %0", "output \"y\" = %1");
        refused(Phase::Graph, &[&broken], "0.graph, graph at line 2: line 3");
    }
}
