//! Text of unknown origin, such as names in a file, made safe for a terminal.

use std::borrow::Cow;
use std::fmt::Write;

/// Shows control characters as escapes, so that a terminal obeys none of them: `\u001b` for ESC. Line breaks and tabs stay.
///
/// The form is that of JSON: in a JSON document the escapes are inside strings, and mean the same characters.
///
/// ```
/// use jamba_plan::printable::printable;
///
/// assert_eq!(printable("a \u{1b}[31mred\u{1b}[0m name\n"), "a \\u001b[31mred\\u001b[0m name\n");
/// ```
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) {
            let _ = write!(shown, "\\u{:04x}", u32::from(c)); // a String takes all
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// True for characters that a terminal acts on or that change the order of others: control characters, and the marks,
/// embeddings, overrides and isolates of Unicode's bidirectional algorithm.
fn acts(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        c => c.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_no_part_of_a_text() {
        let text = "Grüße\t日\n\u{1b}]0;title\u{7}\r\u{8}\u{7f}\u{9b}2J\u{202e}";
        let shown = printable(text);
        assert_eq!(shown, "Grüße\t日\n\\u001b]0;title\\u0007\\u000d\\u0008\\u007f\\u009b2J\\u202e");
        assert!(matches!(printable("plain \\u001b"), Cow::Borrowed("plain \\u001b")));
    }

    #[test]
    fn a_json_document_keeps_its_values() {
        let value = serde_json::json!({ "na\u{9b}me": "\u{1b}\u{7f}\u{202e}\\ \n" });
        for document in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let shown = printable(&document);
            assert!(!shown.contains(acts) && shown.contains("\\u009b"), "{shown}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }
    }
}
