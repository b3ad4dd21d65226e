//! Responses that later requests go on from, in memory. The oldest make room for new ones.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::states::Owner;

/// All kept responses.
pub(crate) struct Responses {
    budget_bytes: u64,
    /// Oldest first.
    all: Mutex<VecDeque<Kept>>,
}

struct Kept {
    id: String,
    owner: Owner,
    /// JSON: the messages of the chat, with the answer.
    messages: Box<str>,
    /// JSON: the response.
    response: Box<str>,
}

impl Kept {
    fn bytes(&self) -> u64 {
        (self.id.len() + self.messages.len() + self.response.len() + size_of::<Kept>()) as u64
    }

    fn is(&self, owner: Owner, id: &str) -> bool {
        self.owner == owner && self.id == id
    }
}

impl Responses {
    pub(crate) fn new(budget_bytes: u64) -> Responses {
        Responses { budget_bytes, all: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a response. One that is larger than all together may be is not kept.
    pub(super) fn keep(&self, owner: Owner, id: &str, messages: &[Value], response: &Value) {
        let json = |value: &Value| value.to_string().into_boxed_str();
        let messages = json(&Value::from(messages));
        let kept = Kept { id: id.to_owned(), owner, messages, response: json(response) };
        let mut all = self.lock();
        let mut bytes = all.iter().map(Kept::bytes).sum::<u64>() + kept.bytes();
        if kept.bytes() > self.budget_bytes {
            return;
        }
        while bytes > self.budget_bytes
            && let Some(oldest) = all.pop_front()
        {
            bytes -= oldest.bytes();
        }
        all.push_back(kept);
    }

    fn find<T>(&self, owner: Owner, id: &str, read: impl FnOnce(&Kept) -> T) -> Option<T> {
        self.lock().iter().find(|kept| kept.is(owner, id)).map(read)
    }

    /// The messages of a chat that a request goes on from.
    pub(super) fn messages(&self, owner: Owner, id: &str) -> Result<Vec<Value>> {
        let text = self.find(owner, id, |kept| kept.messages.clone());
        let text = text.ok_or_else(|| {
            let message = format!("{}; or send the earlier items in input", unknown(id));
            ApiError::with_code("previous_response_not_found", message).at("previous_response_id")
        })?;
        serde_json::from_str(&text).map_err(ApiError::internal)
    }

    pub(super) fn get(&self, owner: Owner, id: &str) -> Result<Value> {
        let text = self.find(owner, id, |kept| kept.response.clone());
        let text = text.ok_or_else(|| ApiError::not_found("response_not_found", unknown(id)))?;
        serde_json::from_str(&text).map_err(ApiError::internal)
    }

    pub(super) fn remove(&self, owner: Owner, id: &str) -> Result<()> {
        let mut all = self.lock();
        let index = all.iter().position(|kept| kept.is(owner, id));
        index
            .and_then(|index| all.remove(index))
            .map(drop)
            .ok_or_else(|| ApiError::not_found("response_not_found", unknown(id)))
    }
}

fn unknown(id: &str) -> String {
    format!("there is no response {id:?}: it was not stored, or newer ones took its room (--responses-mib)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_make_room() {
        let (anna, ben) = (Owner::of_key(blake3::hash(b"a")), Owner::of_key(blake3::hash(b"b")));
        let text = Value::from("x".repeat(1000));
        let responses = Responses::new(5000);
        for id in ["a", "b", "c"] {
            responses.keep(anna, id, std::slice::from_ref(&text), &text);
        }
        let has = |owner, id| responses.get(owner, id).is_ok();
        assert!(!has(anna, "a") && has(anna, "b") && has(anna, "c") && !has(ben, "c"));
        assert!(responses.remove(ben, "c").is_err() && responses.messages(ben, "c").is_err());
        responses.keep(ben, "large", &[], &Value::from("x".repeat(9000)));
        assert!(!has(ben, "large") && has(anna, "b"));
        responses.remove(anna, "b").expect("it is kept");
        assert!(!has(anna, "b") && has(anna, "c"));
        let nothing = Responses::new(0);
        nothing.keep(anna, "a", &[], &Value::Null);
        assert!(nothing.get(anna, "a").is_err());
    }
}
