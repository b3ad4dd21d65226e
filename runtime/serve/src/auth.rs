//! API keys. The server knows their BLAKE3 digests only. All digests are compared, each in constant time, so that the time of an
//! answer tells nothing about a key.

use std::path::Path;

use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};

use crate::ServeError;
use crate::error::ApiError;
use crate::rates::Rules;
use crate::states::Owner;

/// The keys that may use the server. Without any, everybody may.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<(blake3::Hash, Rules)>);

impl Keys {
    /// Reads a file of digests: one a line, in hexadecimal, as `b3sum` and `jamba serve PLAN --digest-key` print them. Behind
    /// the digest, `requests-per-minute=N`, `tokens-per-minute=N` and `allow-priority` are rules of the key; other words, empty lines,
    /// and lines that begin with `#` are ignored.
    ///
    /// # Errors
    /// Fails if the file cannot be read, if a line is not a digest, if a rule is wrong, or if there is no digest.
    pub fn read(path: &Path) -> Result<Keys, ServeError> {
        let fail = |reason: String| ServeError::Keys { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split_whitespace();
            let Some(digest) = words.next().filter(|word| !word.starts_with('#')) else { continue };
            // The line may be a key itself: it is not repeated.
            let digest = blake3::Hash::from_hex(digest).map_err(|_| {
                fail(format!(
                    "line {}: expected the BLAKE3 digest of a key, 64 hexadecimal digits: jamba serve PLAN --digest-key prints it",
                    index + 1
                ))
            })?;
            let rules = rules(words).map_err(|reason| fail(format!("line {}: {reason}", index + 1)))?;
            keys.push((digest, rules));
        }
        match keys.is_empty() {
            true => Err(fail("found no digest of a key".to_owned())),
            false => Ok(Keys(keys)),
        }
    }

    /// The line of a file of digests for this key.
    pub fn digest(key: &str) -> String {
        blake3::hash(key.as_bytes()).to_hex().to_string()
    }

    /// The rules of each key.
    pub(crate) fn rules(&self) -> impl Iterator<Item = (Owner, Rules)> {
        self.0.iter().map(|(digest, rules)| (Owner::of_key(*digest), *rules))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The digest of the request's key, if it is one of ours. A missing key takes the same path as a wrong one.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Option<blake3::Hash> {
        let bearer = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        let key = bearer.or(headers.get("x-api-key").map(HeaderValue::as_bytes)).unwrap_or_default();
        let digest = blake3::hash(key);
        // Comparing digests takes constant time; so does the number of comparisons.
        let found = self.0.iter().fold(false, |found, (known, _)| found | (*known == digest));
        found.then_some(digest)
    }
}

/// The rules among the words behind a digest.
fn rules<'a>(words: impl Iterator<Item = &'a str>) -> Result<Rules, String> {
    let mut rules = Rules::default();
    for word in words.take_while(|word| !word.starts_with('#')) {
        let (place, n) = match word.split_once('=') {
            Some(("requests-per-minute", n)) => (&mut rules.requests_per_minute, n),
            Some(("tokens-per-minute", n)) => (&mut rules.tokens_per_minute, n),
            Some(_) => {
                let expected = "expected requests-per-minute=N, tokens-per-minute=N or allow-priority";
                return Err(format!("found {word:?}, {expected}"));
            }
            None => {
                rules.allow_priority |= word == "allow-priority";
                continue;
            }
        };
        let n = n.parse().ok().filter(|&n: &u32| n > 0);
        *place = Some(n.ok_or_else(|| format!("found {word:?}, expected a whole number, 1 or more"))?);
    }
    Ok(rules)
}

/// The salt of cached prompts of the key with this digest.
pub(crate) fn cache_salt(digest: &blake3::Hash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h]).max(1) // 0 is no salt
}

/// The answer to a request without a valid key.
pub(crate) fn refusal() -> Response {
    let error = ApiError::new(
        StatusCode::UNAUTHORIZED,
        "invalid_request_error",
        Some("invalid_api_key"),
        "found no valid API key: send it as `Authorization: Bearer KEY`",
    );
    ([(WWW_AUTHENTICATE, "Bearer")], error).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
    }

    #[test]
    fn keys_are_found_by_their_digests() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, format!("# ours\n\n{}  Anna\n{}\n", Keys::digest("a"), Keys::digest("b"))).unwrap();
        let keys = Keys::read(&path).unwrap();
        let accepted = |name, value: &str| keys.check(&headers(name, value)).is_some();
        assert!(accepted("authorization", "Bearer a") && accepted("x-api-key", "b"));
        assert!(!accepted("authorization", "Bearer c") && !accepted("authorization", "Basic a"));
        assert!(!accepted("authorization", &format!("Bearer {}", Keys::digest("a"))));
        assert!(keys.check(&HeaderMap::new()).is_none());
    }

    #[test]
    fn keys_have_rules() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let digest = Keys::digest("a");
        let read = |rest: &str| {
            std::fs::write(&path, format!("{digest} {rest}\n")).unwrap();
            Keys::read(&path).map(|keys| keys.0[0].1)
        };
        assert_eq!(read("Anna").unwrap(), Rules::default());
        let rules = read("Anna requests-per-minute=60 tokens-per-minute=9000 allow-priority # x=y").unwrap();
        let expected = Rules { requests_per_minute: Some(60), tokens_per_minute: Some(9000), allow_priority: true };
        assert_eq!(rules, expected);
        for wrong in ["request-per-minute=5", "requests-per-minute=0", "tokens-per-minute=many"] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains("line 1") && error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_key_in_place_of_its_digest_is_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, "sk-secret").unwrap();
        let error = Keys::read(&path).unwrap_err().to_string();
        assert!(error.contains("line 1") && !error.contains("secret"), "{error}");
        std::fs::write(&path, "# none\n").unwrap();
        assert!(Keys::read(&path).is_err() && Keys::read(folder.path()).is_err());
    }
}
