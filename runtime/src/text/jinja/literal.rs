//! String literals. The parser's escapes are not Python's, so they are read again from the source.

use super::value::{Result, error};

/// The text of one or more adjacent literals, such as `'a' "b"`.
pub(super) fn text(source: &str) -> Result<String> {
    let mut out = String::new();
    let mut rest = source.trim();
    while let Some(quote) = rest.chars().next().filter(|c| matches!(c, '\'' | '"')) {
        let body = &rest[1..];
        let Some(end) = closing(body, quote) else { return error("a string without an end") };
        unescape(&body[..end], &mut out)?;
        rest = body[end + 1..].trim_start();
    }
    if rest.is_empty() { Ok(out) } else { error(format!("found {rest:?}, expected a string")) }
}

fn closing(text: &str, quote: char) -> Option<usize> {
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == quote => return Some(at),
            _ => {}
        }
    }
    None
}

fn unescape(text: &str, out: &mut String) -> Result<()> {
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        *out += &rest[..at];
        rest = &rest[at + 1..];
        let Some(c) = rest.chars().next() else { return error("a string ends after a backslash") };
        rest = &rest[c.len_utf8()..];
        let simple = match c {
            '\n' => "",
            '\\' => "\\",
            '\'' => "'",
            '"' => "\"",
            'a' => "\u{7}",
            'b' => "\u{8}",
            'f' => "\u{c}",
            'n' => "\n",
            'r' => "\r",
            't' => "\t",
            'v' => "\u{b}",
            'x' => {
                rest = hexadecimal(rest, 2, out)?;
                continue;
            }
            'u' => {
                rest = hexadecimal(rest, 4, out)?;
                continue;
            }
            'U' => {
                rest = hexadecimal(rest, 8, out)?;
                continue;
            }
            '0'..='7' => {
                let more = rest.bytes().take(2).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
                let digits = format!("{c}{}", &rest[..more]);
                rest = &rest[more..];
                out.extend(u32::from_str_radix(&digits, 8).ok().and_then(char::from_u32));
                continue;
            }
            'N' => return error("the escape \\N{…} is not supported"),
            c if c.is_ascii() => {
                out.extend(['\\', c]);
                continue;
            }
            c => {
                // Jinja2 writes characters beyond ASCII as escapes first, whose backslash this one escapes.
                let code = u32::from(c);
                *out += &match code {
                    0..0x100 => format!("\\x{code:02x}"),
                    0x100..0x10000 => format!("\\u{code:04x}"),
                    _ => format!("\\U{code:08x}"),
                };
                continue;
            }
        };
        *out += simple;
    }
    *out += rest;
    Ok(())
}

/// Appends the character with the code in the first `n` digits, and returns the rest.
fn hexadecimal<'t>(text: &'t str, n: usize, out: &mut String) -> Result<&'t str> {
    let digits = text.get(..n).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let character = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).and_then(char::from_u32);
    match character {
        Some(character) => out.push(character),
        None => return error(format!("a string has an escape without the {n} digits of a character")),
    }
    Ok(&text[n..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_pythons() {
        let table = [
            (r"'a\nb\\c\'d'", "a\nb\\c'd"),
            (r#""\d\/\s" 'x'"#, r"\d\/\sx"),
            (r"'\x41\u00e9\U0001f600\101\0'", "Aé😀A\0"),
            (r"'é\é'", r"é\xe9"),
            ("'a\\\nb'", "ab"),
        ];
        for (literal, expected) in table {
            assert_eq!(text(literal).unwrap(), expected, "{literal}");
        }
        assert!(text(r"'\x4'").is_err() && text("'a").is_err() && text("'a' b").is_err());
    }
}
