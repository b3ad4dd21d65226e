//! The server over sockets: answers, streams, errors, limits, its end.

mod answers;
mod anthropic;
mod client;
mod errors;
mod kv_events;
mod life;
mod limits;
mod ollama;
mod responses;
mod states;
mod tls;
