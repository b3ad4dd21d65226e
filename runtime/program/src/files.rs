//! Options of commands that write files, and the checks before they begin.

use std::path::Path;

use jamba_plan::output::{Outputs, Replace};

/// The option of commands that write files.
#[derive(clap::Args, Clone, Copy)]
pub struct ForceArg {
    /// Replace existing files whatever they contain
    #[arg(long)]
    force: bool,
}

impl ForceArg {
    /// Which existing files outputs may replace.
    pub fn replace(self) -> Replace {
        if self.force { Replace::AnyFile } else { Replace::SameKind }
    }

    /// The outputs of a command that reads these files and folders.
    pub fn outputs<'a>(self, inputs: impl IntoIterator<Item = &'a Path>) -> Outputs {
        let mut outputs = Outputs::new(self.replace());
        inputs.into_iter().for_each(|input| outputs.reads(input));
        outputs
    }
}

/// True if the beginning of a file contains these bytes.
pub fn contains(head: &[u8], part: &[u8]) -> bool {
    part.is_empty() || head.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::contains;

    #[test]
    fn every_text_contains_nothing() {
        assert!(contains(b"", b"") && contains(b"ab", b"") && contains(b"ab", b"b"));
        assert!(!contains(b"ab", b"abc") && !contains(b"", b"a"));
    }
}
