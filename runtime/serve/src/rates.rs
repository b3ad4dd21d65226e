//! Limits of each API key: requests and tokens a minute. What was used comes back evenly, a sixtieth of the limit every second.
//!
//! A request is let in while there is a request left and the tokens are not used up; then its prompt and its answer count, whatever
//! they take. Tokens can so be overdrawn, which later requests wait for: over time, the limit holds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::auth::Keys;
use crate::error::{ApiError, Result};
use crate::states::Owner;

/// A request or a token in the unit of [`Bucket::left`]: the nanoseconds of a minute, so that nothing is rounded.
const ONE: i128 = 60_000_000_000;

/// What tells the time to the limits.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Instant + Send + Sync>);

impl Clock {
    /// A clock that shows what `now` returns.
    pub fn new(now: impl Fn() -> Instant + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(now))
    }

    fn now(&self) -> Instant {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new(Instant::now)
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// What a key may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Every POST counts; None is no limit.
    pub requests_per_minute: Option<u32>,
    /// Prompts, cached or not, and answers count; None is no limit.
    pub tokens_per_minute: Option<u32>,
    /// Requests may have a priority above the normal one.
    pub allow_priority: bool,
}

impl Rules {
    /// The rules of a key that has some of its own.
    fn with(self, own: Rules) -> Rules {
        Rules {
            requests_per_minute: own.requests_per_minute.or(self.requests_per_minute),
            tokens_per_minute: own.tokens_per_minute.or(self.tokens_per_minute),
            allow_priority: own.allow_priority || self.allow_priority,
        }
    }
}

/// The meters of all keys.
pub(crate) struct Rates(BTreeMap<Owner, Arc<Meter>>);

impl Rates {
    pub(crate) fn new(clock: &Clock, keys: &Keys, rules: Rules) -> Rates {
        let meter = |(owner, own): (Owner, Rules)| (owner, Arc::new(Meter::new(clock.clone(), rules.with(own))));
        let everybody = (Owner::EVERYBODY, Rules::default());
        Rates(keys.rules().chain([everybody]).map(meter).collect())
    }

    pub(crate) fn of(&self, owner: Owner) -> Option<&Arc<Meter>> {
        self.0.get(&owner)
    }
}

/// What a key has used.
pub(crate) struct Meter {
    clock: Clock,
    /// Requests may have a priority above the normal one.
    pub(crate) allows_priority: bool,
    buckets: Mutex<Buckets>,
}

struct Buckets {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

impl Buckets {
    fn named(&self) -> impl Iterator<Item = (&'static str, &Bucket)> {
        let all = [("requests", &self.requests), ("tokens", &self.tokens)];
        all.into_iter().filter_map(|(name, bucket)| Some((name, bucket.as_ref()?)))
    }
}

/// What is left of a limit.
struct Bucket {
    /// Of a minute.
    most: u32,
    /// In units of [`ONE`]; below zero if it is overdrawn.
    left: i128,
    at: Instant,
}

impl Bucket {
    fn new(most: u32, now: Instant) -> Bucket {
        Bucket { most, left: i128::from(most) * ONE, at: now }
    }

    fn refill(&mut self, now: Instant) {
        let nanoseconds = now.saturating_duration_since(self.at).as_nanos() as i128;
        let most = i128::from(self.most);
        self.left = (self.left + most * nanoseconds).min(most * ONE);
        self.at = now;
    }

    fn take(&mut self, n: usize) {
        self.left -= n as i128 * ONE;
    }

    /// The time until `n` are left.
    fn wait(&self, n: u32) -> Duration {
        let missing = (i128::from(n) * ONE - self.left).max(0) as u128;
        let nanoseconds = missing.div_ceil(u128::from(self.most.max(1)));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

impl Meter {
    fn new(clock: Clock, rules: Rules) -> Meter {
        let now = clock.now();
        let bucket = |most: Option<u32>| most.map(|most| Bucket::new(most, now));
        let buckets = Buckets { requests: bucket(rules.requests_per_minute), tokens: bucket(rules.tokens_per_minute) };
        Meter { clock, allows_priority: rules.allow_priority, buckets: Mutex::new(buckets) }
    }

    /// What is left now.
    fn buckets(&self) -> MutexGuard<'_, Buckets> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let Buckets { requests, tokens } = &mut *buckets;
        [requests, tokens].into_iter().flatten().for_each(|bucket| bucket.refill(now));
        buckets
    }

    /// Lets a request in, or tells when to retry.
    pub(crate) fn admit(&self) -> Result<()> {
        let mut buckets = self.buckets();
        let refused = buckets.named().find(|(_, bucket)| bucket.left < ONE);
        if let Some((name, bucket)) = refused {
            let seconds = bucket.wait(1).as_nanos().div_ceil(1_000_000_000) as u32;
            let most = bucket.most;
            return Err(ApiError::limited(
                name,
                format!("found no {name} left of {most} a minute (--{name}-per-minute); retry in {seconds} s"),
                seconds,
            ));
        }
        if let Some(requests) = &mut buckets.requests {
            requests.take(1);
        }
        Ok(())
    }

    /// Counts tokens of a request that was let in.
    pub(crate) fn charge(&self, n_tokens: usize) {
        if let Some(tokens) = &mut self.buckets().tokens {
            tokens.take(n_tokens);
        }
    }

    /// What is left, in OpenAI's headers.
    pub(crate) fn add_headers(&self, headers: &mut HeaderMap) {
        for (name, bucket) in self.buckets().named() {
            let values = [
                ("limit", bucket.most.to_string()),
                ("remaining", (bucket.left.max(0) / ONE).to_string()),
                ("reset", in_words(bucket.wait(bucket.most))),
            ];
            for (what, value) in values {
                let name = HeaderName::from_bytes(format!("x-ratelimit-{what}-{name}").as_bytes());
                if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&value)) {
                    headers.insert(name, value);
                }
            }
        }
    }
}

/// `1m30s`, `2.5s`, `17ms`: as OpenAI writes durations.
fn in_words(time: Duration) -> String {
    match time.as_millis() {
        ms if ms < 1000 => format!("{ms}ms"),
        ms if ms < 60_000 => format!("{}s", ms as f64 / 1000.0),
        ms => format!("{}m{}s", ms / 60_000, ms % 60_000 / 1000),
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    #[test]
    fn what_was_used_comes_back_evenly() {
        let now = Arc::new(Mutex::new(Instant::now()));
        let of_clock = Arc::clone(&now);
        let clock = Clock::new(move || *of_clock.lock().unwrap());
        let rules = Rules { requests_per_minute: Some(2), tokens_per_minute: Some(60), ..Rules::default() };
        let meter = Meter::new(clock, rules);
        let later = |seconds| *now.lock().unwrap() += Duration::from_secs(seconds);
        let retry = || meter.admit().err().map(|error| error.into_response().headers()["retry-after"].clone());
        assert_eq!((retry(), retry(), retry()), (None, None, Some("30".parse().unwrap())));
        later(29);
        assert_eq!(retry(), Some("1".parse().unwrap()));
        later(1);
        assert_eq!(retry(), None);
        // 100 tokens of 60 are more than there were: 41 come back before the next request.
        later(60);
        meter.charge(100);
        assert_eq!(retry(), Some("41".parse().unwrap()));
        let mut headers = HeaderMap::new();
        meter.add_headers(&mut headers);
        let header = |name: &str| headers[name].to_str().unwrap();
        assert_eq!((header("x-ratelimit-limit-tokens"), header("x-ratelimit-remaining-tokens")), ("60", "0"));
        assert_eq!((header("x-ratelimit-reset-tokens"), header("x-ratelimit-remaining-requests")), ("1m40s", "2"));
        later(41);
        assert_eq!(retry(), None);
    }

    #[test]
    fn durations_in_words() {
        let words = [17, 2500, 90_000].map(|ms| in_words(Duration::from_millis(ms)));
        assert_eq!(words, ["17ms", "2.5s", "1m30s"]);
    }
}
