//! Events of the prefix cache, as a router reads them.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};

use jamba_runtime::Block;
use jamba_serve::{Address, KvEvents, ServeOptions};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use zeromq::{Socket, SocketRecv, SubSocket};

use crate::client::Running;

/// Prompts until the subscription must have arrived.
const MOST_PROMPTS: u32 = 10_000;

#[test]
fn a_router_hears_of_blocks() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let events = KvEvents { address: Address::Tcp("127.0.0.1".to_owned(), port), topic: None };
    let server = Running::new(ServeOptions { kv_events: Some(events), cache_interval: 4, ..ServeOptions::default() });
    let model = server.get("/v1/models").json()["data"][0]["id"].as_str().expect("a name").to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (is_heard, (all_sent, sent)) = (AtomicBool::new(false), oneshot::channel::<()>());

    let messages = std::thread::scope(|scope| {
        // A subscriber gets no confirmation, and misses events from before its subscription: requests go on until events arrive.
        scope.spawn(|| {
            let _all_sent = all_sent;
            for n in (0..MOST_PROMPTS).take_while(|_| !is_heard.load(Ordering::Relaxed)) {
                let prompt: Vec<u32> = (0..10).map(|i| 1 + n / 7_u32.pow(i % 5) % 7).collect();
                let body = json!({ "prompt": prompt, "max_tokens": 1, "temperature": 0 });
                assert_eq!(server.post("/v1/completions", &body).status, 200);
            }
        });
        runtime.block_on(async {
            let mut router = SubSocket::new();
            router.connect(&format!("tcp://127.0.0.1:{port}")).await.expect("the socket listens");
            router.subscribe("kv@").await.expect("a subscription");
            let messages = async {
                let mut messages = Vec::new();
                while messages.len() < 8 {
                    messages.push(router.recv().await.expect("a message"));
                }
                messages
            };
            let messages = tokio::select! {
                messages = messages => messages,
                _ = sent => panic!("too few events of {MOST_PROMPTS} prompts"),
            };
            is_heard.store(true, Ordering::Relaxed);
            messages
        })
    });

    let (mut sequences, mut stored) = (Vec::new(), Vec::new());
    for message in messages {
        let [topic, sequence, payload] = message.into_vec().try_into().expect("three frames");
        assert_eq!(topic, format!("kv@{}@{model}", server.address));
        sequences.push(u64::from_be_bytes((*sequence).try_into().expect("8 bytes")));
        let (seconds, events, rank): (f64, Vec<Value>, u32) = rmp_serde::from_slice(&payload).expect("MessagePack");
        assert!(seconds > 1.0 && rank == 0);
        stored.extend(events.into_iter().filter(|event| event[0] == "BlockStored"));
    }
    assert!(sequences.is_sorted_by(|one, next| one + 1 == *next), "{sequences:?}");

    // A prompt of 10 tokens has two blocks of 4.
    let begins = stored.iter().position(|event| event[2].is_null()).expect("the first block of a prompt");
    let (first, second) = (&stored[begins], &stored[begins + 1]);
    let tokens: Vec<u32> = serde_json::from_value(first[3].clone()).expect("tokens");
    let block = Block::last_of(&tokens, 4).expect("a block");
    assert_eq!(
        [&first[1], &first[4], &first[5], &first[6]],
        [&json!([block.hash]), &json!(4), &Value::Null, &json!("cpu")]
    );
    assert_eq!((&second[2], second[3].as_array().map(Vec::len)), (&json!(block.hash), Some(4)));
}
