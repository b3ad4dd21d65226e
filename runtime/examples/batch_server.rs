//! The main loop of a server: clients join and leave between steps and share each step's tokens. The answer of a client
//! does not depend on the others.
//!
//! ```text
//! cargo run --release --example batch_server -- jamba.plan
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;

use jamba_runtime::{Batch, Engine, GenerateOptions, OpenOptions, Request, RequestId};

/// The request of a client.
struct Client {
    name: String,
    prompt: String,
    max_new: usize,
}

/// A client with a running request.
struct Served {
    name: String,
    text: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let plan = std::env::args().nth(1).ok_or("usage: batch_server PLAN")?;
    run(plan.as_ref(), &mut io::stdout())
}

/// Serves a few clients that arrive from another thread.
pub(crate) fn run(plan: &Path, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let (sender, arrivals) = mpsc::channel();
    let clients = thread::spawn(move || {
        for (index, prompt) in
            ["Once upon a time", "The dog", "A girl named Lily", "One day", "The sun"].iter().enumerate()
        {
            let client =
                Client { name: format!("client {index}"), prompt: (*prompt).to_owned(), max_new: 8 + 4 * index };
            if sender.send(client).is_err() {
                return;
            }
        }
    });
    serve(&mut Engine::open(plan, OpenOptions::default())?, &arrivals, out)?;
    clients.join().map_err(|_| "the thread of the clients panicked")?;
    Ok(())
}

/// Serves until the channel is closed and all requests have ended.
fn serve(engine: &mut Engine, arrivals: &Receiver<Client>, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let tokenizer = engine.tokenizer()?;
    let mut batch = Batch::new(engine);
    let mut served: HashMap<RequestId, Served> = HashMap::new();
    let mut is_open = true;
    while is_open || !batch.is_idle() {
        // Admit arrived clients between steps; wait for the next one if there is nothing to do.
        loop {
            let next = if batch.is_idle() {
                arrivals.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                arrivals.try_recv()
            };
            match next {
                Ok(Client { name, prompt, max_new }) => {
                    let prompt = tokenizer.encode(&prompt)?;
                    let options = GenerateOptions { max_new, ..GenerateOptions::default() };
                    let id = batch.submit(engine, Request { prompt, options, ..Request::default() })?;
                    served.insert(id, Served { name, text: String::new() });
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    is_open = false;
                    break;
                }
            }
        }
        for event in batch.step(engine)? {
            let Some(client) = served.get_mut(&event.request) else { continue };
            if let Some(token) = &event.token {
                client.text += &token.text;
            }
            if let Some(finish) = event.finish
                && let Some(client) = served.remove(&event.request)
            {
                let text = client.text + &event.rest;
                writeln!(out, "{}: {text:?} [{}]", client.name, finish.name())?;
            }
        }
    }
    Ok(())
}
