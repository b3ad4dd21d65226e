//! Events of the prefix cache for routers, on a ZeroMQ socket that publishes them ([`publish`](crate::publish)).
//!
//! A message has the three frames of vLLM, as llm-d and Dynamo read them: the topic, a sequence number (8 bytes, big-endian), and
//! MessagePack, `[seconds, events, data-parallel rank]`. Events are arrays:
//!
//! ```text
//! ["BlockStored", [hash], parent or nil, tokens, block size, nil (LoRA), "cpu"]
//! ["BlockRemoved", [hash], "cpu"]
//! ["AllBlocksCleared"]
//! ```
//!
//! Blocks are those of [`Block`]: as long as the interval of the prefix cache. A subscriber misses events from before its
//! subscription. A slow subscriber loses messages: the sequence numbers then have gaps.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jamba_runtime::{Block, PrefixCache, PrefixChange};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::Address;
use crate::publish::Publisher;

/// Where the state of a block is: in the memory of the host, whatever the device.
const MEDIUM: &str = "cpu";

/// Where events of the prefix cache are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvEvents {
    /// Host and port of the socket. Events contain the tokens of prompts.
    pub address: Address,
    /// First frame of each message: `kv@POD@MODEL` for llm-d. By default, POD is the address of the server.
    pub topic: Option<String>,
}

/// The changes of one step.
pub(crate) struct Changes {
    topic: Arc<str>,
    block_size: usize,
    changes: Vec<PrefixChange>,
}

/// Takes the changes of the prefix cache after each step.
pub(crate) struct Follower {
    topic: Arc<str>,
    publisher: mpsc::UnboundedSender<Changes>,
}

impl Follower {
    /// `server` is the address of the server, `model` the model's name.
    pub(crate) fn new(
        events: &KvEvents,
        server: &str,
        model: &str,
        publisher: mpsc::UnboundedSender<Changes>,
    ) -> Follower {
        let pod = server.split_once("://").map_or(server, |(_, address)| address);
        let topic = events.topic.clone().unwrap_or_else(|| format!("kv@{pod}@{model}"));
        tracing::info!("topic of the prefix cache's events: {topic}");
        Follower { topic: topic.into(), publisher }
    }

    pub(crate) fn follow(&self, cache: &mut PrefixCache) {
        let changes = cache.take_changes();
        if !changes.is_empty() {
            let changes = Changes { topic: Arc::clone(&self.topic), block_size: cache.interval(), changes };
            let _ = self.publisher.send(changes); // the HTTP thread may have ended
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Event<'a> {
    Stored(&'static str, [u64; 1], Option<u64>, &'a [u32], usize, Option<u32>, &'static str),
    Removed(&'static str, [u64; 1], &'static str),
    Cleared([&'static str; 1]),
}

impl Event<'_> {
    /// The event of a change, if a block was stored or removed.
    fn of(change: &PrefixChange, block_size: usize) -> Option<Event<'_>> {
        Some(match change {
            PrefixChange::Stored(prefix) => {
                let Block { hash, parent, tokens } = Block::last_of(prefix, block_size)?;
                Event::Stored("BlockStored", [hash], parent, tokens, block_size, None, MEDIUM)
            }
            PrefixChange::Removed(prefix) => {
                Event::Removed("BlockRemoved", [Block::last_of(prefix, block_size)?.hash], MEDIUM)
            }
            PrefixChange::Lost => Event::Cleared(["AllBlocksCleared"]),
        })
    }
}

/// The third frame of a message, if there is an event.
fn payload(changes: &[PrefixChange], block_size: usize, seconds: f64) -> Option<Vec<u8>> {
    let events: Vec<Event<'_>> = changes.iter().filter_map(|change| Event::of(change, block_size)).collect();
    if events.is_empty() {
        return None;
    }
    Some(rmp_serde::to_vec(&(seconds, events, 0)).expect("numbers, texts and arrays"))
}

/// Publishes until no change can come any more.
pub(crate) async fn publish(publisher: Publisher, mut changes: mpsc::UnboundedReceiver<Changes>) {
    let send = async {
        let mut sequence: u64 = 0;
        while let Some(Changes { topic, block_size, changes }) = changes.recv().await {
            let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            let Some(payload) = payload(&changes, block_size, seconds) else { continue };
            publisher.send(&topic, [&sequence.to_be_bytes(), &payload]);
            sequence += 1;
        }
    };
    tokio::select! {
        () = send => {}
        () = publisher.accept() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_arrays_of_msgpack() {
        let stored = |tokens: &[u32]| PrefixChange::Stored(tokens.into());
        let changes =
            [stored(&[7, 300]), stored(&[7, 300, 9]), PrefixChange::Removed([7, 300].into()), PrefixChange::Lost];
        let bytes = payload(&changes, 2, 0.5).unwrap();
        let hash = Block::last_of(&[7, 300], 2).unwrap().hash;
        let as_msgpack = |text: &str| [&[0xa0 | text.len() as u8], text.as_bytes()].concat();
        let hash = [&[0x91, 0xcf], &hash.to_be_bytes()[..]].concat();
        let expected = [
            &[0x93, 0xcb, 0x3f, 0xe0, 0, 0, 0, 0, 0, 0, 0x93][..], // [0.5, three events, rank]
            &[0x97][..],
            &as_msgpack("BlockStored"),
            &hash,
            &[0xc0, 0x92, 7, 0xcd, 1, 0x2c, 2, 0xc0],
            &as_msgpack("cpu"),
            &[0x93],
            &as_msgpack("BlockRemoved"),
            &hash,
            &as_msgpack("cpu"),
            &[0x91],
            &as_msgpack("AllBlocksCleared"),
            &[0],
        ];
        assert_eq!(bytes, expected.concat());
        assert_eq!(payload(&[stored(&[7, 300, 9])], 2, 0.5), None);
    }
}
