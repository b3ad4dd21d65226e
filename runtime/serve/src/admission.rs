//! Admission: how many requests and prompt tokens the server holds at a time. More are refused at once, whatever the step thread
//! does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::error::{ApiError, Result};

/// The limits, and what is admitted now.
#[derive(Debug)]
pub(crate) struct Admission {
    max_requests: usize,
    max_tokens: usize,
    requests: AtomicUsize,
    tokens: AtomicUsize,
    drains: AtomicBool,
}

/// The share of one request; returned when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    requests: usize,
    tokens: usize,
}

impl Admission {
    /// At most `max_requests` answers with `max_tokens` prompt tokens. A request that is alone is always admitted.
    pub(crate) fn new(max_requests: usize, max_tokens: usize) -> Arc<Admission> {
        let (requests, tokens, drains) = Default::default();
        Arc::new(Admission { max_requests, max_tokens, requests, tokens, drains })
    }

    /// Admits `requests` answers. Their prompt is not known yet; see [`Permit::add_tokens`].
    pub(crate) fn admit(self: &Arc<Admission>, requests: usize) -> Result<Permit> {
        if self.drains() {
            return Err(ApiError::busy(
                "server_shutting_down",
                "the server is shutting down: send the request to another one",
                5,
            ));
        }
        if requests > self.max_requests {
            let most = self.max_requests;
            return Err(ApiError::invalid(format!(
                "found {requests} answers to one request, expected at most {most}, as many as the server holds (--queue)"
            )));
        }
        let before = self.requests.fetch_add(requests, Ordering::Relaxed);
        let permit = Permit { admission: Arc::clone(self), requests, tokens: 0 };
        if before + requests > self.max_requests {
            let most = self.max_requests;
            return Err(ApiError::busy(
                "queue_full",
                format!("the server is full: {before} answers of at most {most} run or wait; retry later"),
                1,
            ));
        }
        Ok(permit)
    }

    /// From now on, nothing is admitted.
    pub(crate) fn drain(&self) {
        self.drains.store(true, Ordering::Relaxed);
    }

    pub(crate) fn drains(&self) -> bool {
        self.drains.load(Ordering::Relaxed)
    }

    /// True if another request would be refused.
    pub(crate) fn is_full(&self) -> bool {
        self.requests.load(Ordering::Relaxed) >= self.max_requests
    }
}

impl Permit {
    /// Counts the tokens of the prompt.
    pub(crate) fn add_tokens(&mut self, n_tokens: usize) -> Result<()> {
        let before = self.admission.tokens.fetch_add(n_tokens, Ordering::Relaxed);
        self.tokens += n_tokens;
        let most = self.admission.max_tokens;
        if before > 0 && before + n_tokens > most {
            return Err(ApiError::busy(
                "queue_full",
                format!("the server is full: {before} prompt tokens of at most {most} run or wait; retry later"),
                1,
            ));
        }
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.requests.fetch_sub(self.requests, Ordering::Relaxed);
        self.admission.tokens.fetch_sub(self.tokens, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    #[test]
    fn what_is_refused_or_dropped_is_returned() {
        let admission = Admission::new(3, 100);
        let mut first = admission.admit(2).unwrap();
        first.add_tokens(150).unwrap(); // alone
        let mut second = admission.admit(1).unwrap();
        let refused = admission.admit(1).unwrap_err().into_response();
        assert!(admission.is_full() && refused.headers()["retry-after"] == "1");
        // What never fits has nothing to wait for.
        assert!(admission.admit(4).unwrap_err().to_json().contains("invalid_request_error"));
        assert!(second.add_tokens(1).is_err());
        drop((first, second));
        assert_eq!((admission.requests.load(Ordering::Relaxed), admission.tokens.load(Ordering::Relaxed)), (0, 0));
        let mut third = admission.admit(3).unwrap();
        third.add_tokens(60).unwrap();
        admission.drain();
        assert!(admission.admit(0).unwrap_err().to_json().contains("server_shutting_down"));
    }
}
