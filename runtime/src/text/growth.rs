//! How much longer the steps of a tokenizer can make a text. A step such as `Replace "a" → "aaaa…"` would fill the memory, so a
//! tokenizer with such steps is refused.

use serde_json::Value;

use super::tokenizer_json::{Parts, charsmap};

/// Most bytes that a tokenizer may make of one byte. NFKC makes 11 of one in the worst case, and `▁` for a space 3.
const MOST_TIMES: u64 = 64;

/// Most bytes that a tokenizer may add to the text between two special tokens.
const MOST_MORE: u64 = 4096;

/// A bound on a chain of steps: `times · n + more` bytes of n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Growth {
    pub(super) times: u64,
    pub(super) more: u64,
}

const SAME: Growth = Growth { times: 1, more: 0 };

impl Growth {
    fn times(times: usize) -> Growth {
        Growth { times: times.max(1) as u64, more: 0 }
    }

    fn then(self, next: Growth) -> Growth {
        Growth {
            times: self.times.saturating_mul(next.times),
            more: self.more.saturating_mul(next.times).saturating_add(next.more),
        }
    }

    /// Refuses steps that make too much of a text. `place` is their key.
    fn check(self, place: &str) -> Result<Growth, String> {
        if self.times > MOST_TIMES {
            return Err(format!(
                "{place}: its steps make up to {} bytes of one byte of text, expected at most {MOST_TIMES}",
                self.times
            ));
        }
        if self.more > MOST_MORE {
            return Err(format!(
                "{place}: its steps add up to {} bytes to a text, expected at most {MOST_MORE}",
                self.more
            ));
        }
        Ok(self)
    }
}

/// The growth of a text that is encoded, before the model's own tokens.
///
/// # Errors
/// Steps that make too much of a text, when it is encoded or when tokens are decoded.
pub(super) fn of(parts: &Parts) -> Result<Growth, String> {
    of_step(&parts.decoder, "decoders").check("decoder")?;
    of_step(&parts.pre_tokenizer, "pretokenizers").check("pre_tokenizer")?;
    of_step(&parts.normalizer, "normalizers").check("normalizer")
}

fn of_step(step: &Value, inner: &str) -> Growth {
    let length = |key: &str| step[key].as_str().map_or(0, str::len);
    match step["type"].as_str().unwrap_or_default() {
        "Sequence" => {
            let steps = step[inner].as_array().into_iter().flatten();
            steps.fold(SAME, |growth, step| growth.then(of_step(step, inner)))
        }
        "Prepend" => Growth { more: length("prepend") as u64, ..SAME },
        "Replace" => {
            let content = length("content");
            match step["pattern"]["String"].as_str().map_or(0, str::len) {
                // A regular expression may match the empty text between two bytes.
                0 => Growth { times: 1 + content as u64, more: content as u64 },
                pattern => Growth::times(content.div_ceil(pattern)),
            }
        }
        // Unicode's report 15 gives the worst cases. Bert's normalizer also puts spaces around CJK characters.
        "NFC" | "NFD" => Growth::times(3),
        "NFKC" | "NFKD" => Growth::times(11),
        "BertNormalizer" => Growth::times(12),
        "ByteLevel" | "Lowercase" => Growth::times(2),
        "Precompiled" => {
            let replacements = charsmap(step).unwrap_or_default();
            Growth::times(replacements.split(|&byte| byte == 0).map(<[u8]>::len).max().unwrap_or(1))
        }
        // `▁` for a space, and another at the beginning of each word, which has a byte or more.
        "Metaspace" => Growth::times(6),
        _ => SAME,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn growth(file: Value) -> Result<Growth, String> {
        let mut file = file;
        file["model"] = json!({ "type": "BPE" });
        of(&Parts::read(file.to_string().as_bytes())?)
    }

    fn replace(from: &str, to: &str) -> Value {
        json!({ "type": "Replace", "pattern": { "String": from }, "content": to })
    }

    #[test]
    fn steps_of_published_tokenizers_are_accepted() {
        let llama =
            json!({ "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": "▁" }, replace(" ", "▁")] });
        assert_eq!(growth(json!({ "normalizer": llama })), Ok(Growth { times: 3, more: 9 }));
        assert_eq!(growth(json!({})), Ok(SAME));
        let t5 = json!({ "type": "Sequence", "normalizers": [{ "type": "NFKC" }, replace(" ", "▁")] });
        assert_eq!(growth(json!({ "normalizer": t5 })), Ok(Growth { times: 33, more: 0 }));
    }

    #[test]
    fn steps_that_multiply_a_text_are_refused() {
        let thousand = "a".repeat(1000);
        let chain = |step: Value| json!({ "type": "Sequence", "normalizers": vec![step; 30] });
        let regex = json!({ "type": "Replace", "pattern": { "Regex": "" }, "content": thousand });
        for (normalizer, says) in [
            (replace("a", &thousand), "up to 1000 bytes of one byte"),
            (chain(replace("a", "aa")), "up to 1073741824 bytes of one"),
            (chain(replace("a", &thousand)), "up to 18446744073709551615 bytes"),
            (regex, "up to 1001 bytes"),
            (chain(json!({ "type": "Prepend", "prepend": thousand })), "add up to 30000 bytes"),
            (chain(json!({ "type": "ByteLevel" })), "up to 1073741824 bytes of one"),
        ] {
            let reason = growth(json!({ "normalizer": normalizer })).unwrap_err();
            assert!(reason.starts_with("normalizer: ") && reason.contains(says), "{reason}");
        }
        let decoder = json!({ "type": "Sequence", "decoders": [replace("a", &thousand)] });
        let reason = growth(json!({ "decoder": decoder })).unwrap_err();
        assert!(reason.starts_with("decoder: ") && reason.contains("1000 bytes of one"), "{reason}");
        let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
        let reason = growth(json!({ "post_processor": { "type": "TemplateProcessing", "single": vec![text; 100] } }));
        assert!(reason.unwrap_err().contains("the text 100 times"));
    }

    #[test]
    fn a_charsmap_grows_by_its_longest_replacement() {
        let map = |replacements: &[u8]| {
            let bytes = [&4u32.to_le_bytes()[..], &[0; 4], replacements].concat();
            json!({ "normalizer": { "type": "Precompiled", "precompiled_charsmap": base64::encode(bytes) } })
        };
        assert_eq!(growth(map(b"abc\0de\0")), Ok(Growth { times: 3, more: 0 }));
        assert!(growth(map(&[b'a'; 1000])).unwrap_err().contains("up to 1000 bytes"));
        let cut = json!({ "normalizer": { "type": "Precompiled", "precompiled_charsmap": base64::encode([255; 8]) } });
        assert!(growth(cut).unwrap_err().contains("normalizer: precompiled_charsmap: its trie"));
    }
}
