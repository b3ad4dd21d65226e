//! Token ids as the value of an option.

use std::str::FromStr;

/// Token ids, separated by commas or spaces, with or without the brackets of a JSON list. A type of its own: clap would read a `Vec`
/// as an option that is given several times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens(pub Vec<u32>);

impl FromStr for Tokens {
    type Err = String;

    fn from_str(text: &str) -> Result<Tokens, String> {
        let inner = text.trim();
        let inner = inner.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(inner);
        let ids = inner.split(|c: char| c == ',' || c.is_whitespace()).filter(|id| !id.is_empty());
        let ids = ids.map(|id| id.parse().map_err(|_| format!("found {id:?}, expected token ids: 1,2,3")));
        let ids = ids.collect::<Result<Vec<u32>, String>>()?;
        if ids.is_empty() { Err("found no token id, expected at least one: 1,2,3".to_owned()) } else { Ok(Tokens(ids)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_ids_have_commas_or_spaces() {
        for text in ["1,2,3", "1 2 3", "1, 2, 3", "[1, 2, 3]", " 1\n2,3,"] {
            assert_eq!(text.parse(), Ok(Tokens(vec![1, 2, 3])), "{text:?}");
        }
        assert!("1,x".parse::<Tokens>().unwrap_err().contains("\"x\""));
        for wrong in ["", " ", ",", "-1", "1.5", "[1"] {
            assert!(wrong.parse::<Tokens>().is_err(), "{wrong:?}");
        }
    }
}
