//! A ZeroMQ socket that publishes to subscribers of unknown origin: the server's side of ZMTP 3.0 without security.
//!
//! ```text
//! greeting   0xff, 8 zeros, 0x7f, version 3 0, "NULL" in 20 bytes, as-server 0, 31 zeros; both sides send it at once
//! frame      flags (1: others follow, 2: 8 bytes of length in place of 1, 4: a command), length (big-endian), body
//! command    length of its name, name; for READY properties: length and name, length (4 bytes) and value
//! message    of a subscriber: 1 and the beginning of a topic subscribes to it, 0 and the same ends that
//! ```
//!
//! A subscriber may be anybody who reaches the address. The length of its frames is checked before memory is taken for them: the zeromq
//! crate takes what the length says, and a frame of 2^61 bytes ends its process. One that is slow misses messages, as ZeroMQ has it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, broadcast, mpsc};

use crate::{Address, ServeError};

/// Most subscribers at a time.
const MOST_SUBSCRIBERS: usize = 256;
/// Most topics of a subscriber.
const MOST_TOPICS: usize = 64;
/// Longest frame of a subscriber, in bytes.
const MOST_BYTES: u64 = 4096;
/// Messages that a subscriber may be behind.
const MOST_MESSAGES: usize = 4096;
/// Time for the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Wait after an error of `accept`, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const GREETING: [u8; 64] = {
    let mut bytes = [0; 64];
    (bytes[0], bytes[9], bytes[10]) = (0xff, 0x7f, 3);
    let mechanism = *b"NULL";
    let mut at = 0;
    while at < mechanism.len() {
        bytes[12 + at] = mechanism[at];
        at += 1;
    }
    bytes
};

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// A message, encoded once for all subscribers.
#[derive(Clone)]
struct Message {
    topic: Bytes,
    frames: Bytes,
}

/// A socket that publishes.
pub(crate) struct Publisher {
    listener: TcpListener,
    messages: broadcast::Sender<Message>,
    places: Arc<Semaphore>,
}

impl Publisher {
    pub(crate) async fn bind(address: &Address) -> Result<Publisher, ServeError> {
        let name = address.to_string();
        let listener = match TcpListener::bind(&name).await {
            Ok(listener) => listener,
            Err(source) => return Err(ServeError::Address { address: name, source }),
        };
        let (messages, _) = broadcast::channel(MOST_MESSAGES);
        Ok(Publisher { listener, messages, places: Arc::new(Semaphore::new(MOST_SUBSCRIBERS)) })
    }

    pub(crate) fn local_address(&self) -> io::Result<std::net::SocketAddr> {
        self.listener.local_addr()
    }

    /// Sends a message to those that have subscribed to a beginning of its first frame, the topic.
    pub(crate) fn send(&self, topic: &str, frames: [&[u8]; 2]) {
        let mut encoded = frame(MORE, topic.as_bytes());
        encoded.extend(frame(MORE, frames[0]));
        encoded.extend(frame(0, frames[1]));
        let message = Message { topic: Bytes::copy_from_slice(topic.as_bytes()), frames: encoded.into() };
        let _ = self.messages.send(message); // there may be no subscriber
    }

    /// Takes subscribers. Does not end.
    pub(crate) async fn accept(&self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => match Arc::clone(&self.places).try_acquire_owned() {
                    Ok(place) => {
                        let messages = self.messages.subscribe();
                        tokio::spawn(async move {
                            let ended = serve(stream, messages).await;
                            drop(place);
                            tracing::debug!("subscriber {peer}: {ended:?}");
                        });
                    }
                    Err(_) => tracing::warn!("subscriber {peer}: refused: there are {MOST_SUBSCRIBERS} others"),
                },
                Err(error) => {
                    tracing::warn!("cannot accept a subscriber: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    match u8::try_from(body.len()) {
        Ok(n) => [&[flags, n], body].concat(),
        Err(_) => [&[flags | LONG][..], &(body.len() as u64).to_be_bytes(), body].concat(),
    }
}

fn refused(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

/// Reads the flags and the body of a frame.
async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    let flags = from.read_u8().await?;
    let n = if flags & LONG == 0 { from.read_u8().await?.into() } else { from.read_u64().await? };
    if n > MOST_BYTES {
        return Err(refused(format!("a frame of {n} bytes, expected at most {MOST_BYTES}")));
    }
    let mut body = vec![0; n as usize];
    from.read_exact(&mut body).await?;
    Ok((flags & (MORE | COMMAND), body))
}

/// The name of a command, and what follows it.
fn command(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (n, rest) = body.split_first()?;
    rest.split_at_checked(usize::from(*n))
}

/// Whether these are the properties of a socket that subscribes.
fn subscribes(mut properties: &[u8]) -> bool {
    while let Some((name, rest)) = command(properties) {
        let Some((n, rest)) = rest.split_first_chunk() else { return false };
        let Some((value, rest)) = rest.split_at_checked(u32::from_be_bytes(*n) as usize) else { return false };
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            return value == b"SUB" || value == b"XSUB";
        }
        properties = rest;
    }
    false
}

/// Serves a subscriber until it leaves, breaks the protocol, or nothing will be published any more.
async fn serve(mut stream: TcpStream, mut messages: broadcast::Receiver<Message>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let handshake = async {
        writer.write_all(&GREETING).await?;
        let mut greeting = [0; GREETING.len()];
        reader.read_exact(&mut greeting).await?;
        if greeting[0] != 0xff || greeting[9] & 1 == 0 || greeting[10] < 3 || greeting[12..32] != GREETING[12..32] {
            return Err(refused("another greeting than that of ZMTP 3 without security"));
        }
        writer.write_all(&frame(COMMAND, b"\x05READY\x0bSocket-Type\0\0\0\x03PUB")).await?;
        let (flags, body) = read_frame(&mut reader).await?;
        match command(&body) {
            Some((b"READY", properties)) if flags == COMMAND && subscribes(properties) => Ok(()),
            _ => Err(refused("it is no subscriber")),
        }
    };
    tokio::time::timeout(HANDSHAKE, handshake).await??;

    let topics = Mutex::new(Vec::<Vec<u8>>::new());
    let topics = || topics.lock().unwrap_or_else(PoisonError::into_inner);
    let (answers, mut to_answer) = mpsc::channel::<Vec<u8>>(1);
    let read = async {
        loop {
            let (flags, body) = read_frame(&mut reader).await?;
            match (flags, body.split_first()) {
                (0, Some((1, topic))) => {
                    let mut topics = topics();
                    if topics.len() >= MOST_TOPICS {
                        return Err(refused(format!("more than {MOST_TOPICS} topics")));
                    }
                    topics.push(topic.to_vec());
                }
                (0, Some((0, topic))) => {
                    let mut topics = topics();
                    if let Some(at) = topics.iter().position(|known| known == topic) {
                        topics.remove(at);
                    }
                }
                (COMMAND, _) => {
                    // A heartbeat: a time to live, and a context that comes back.
                    if let Some((b"PING", [_, _, context @ ..])) = command(&body) {
                        let pong = [b"\x04PONG", context].concat();
                        let _ = answers.send(frame(COMMAND, &pong)).await; // the other half ends with this one
                    }
                }
                _ => return Err(refused("a message that is no subscription")),
            }
        }
    };
    let write = async {
        loop {
            tokio::select! {
                Some(answer) = to_answer.recv() => writer.write_all(&answer).await?,
                message = messages.recv() => match message {
                    Ok(message) => {
                        let is_wanted = topics().iter().any(|topic| message.topic.starts_with(topic));
                        if is_wanted {
                            writer.write_all(&message.frames).await?;
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                },
            }
        }
    };
    tokio::select! {
        ended = read => ended,
        ended = write => ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBSCRIBER: &[u8] = b"\x05READY\x0bSocket-Type\0\0\0\x03SUB\x08Identity\0\0\0\0";

    /// Runs `test` with a socket that publishes and its address.
    fn with_publisher<F: Future<Output = ()>>(test: impl FnOnce(Arc<Publisher>, std::net::SocketAddr) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let publisher = Arc::new(Publisher::bind(&Address::Tcp("127.0.0.1".into(), 0)).await.unwrap());
            let address = publisher.local_address().unwrap();
            tokio::select! {
                () = publisher.accept() => {}
                () = test(Arc::clone(&publisher), address) => {}
            }
        });
    }

    /// A connection after both greetings and the publisher's READY.
    async fn greeted(address: std::net::SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&GREETING).await.unwrap();
        let mut greeting = [0; 64];
        stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(greeting, GREETING);
        let (flags, body) = read_frame(&mut stream).await.unwrap();
        assert_eq!((flags, command(&body).unwrap().0), (COMMAND, &b"READY"[..]));
        stream
    }

    async fn subscriber(address: std::net::SocketAddr, topics: &[&[u8]]) -> TcpStream {
        let mut stream = greeted(address).await;
        stream.write_all(&frame(COMMAND, SUBSCRIBER)).await.unwrap();
        for topic in topics {
            stream.write_all(&frame(0, &[&[1], *topic].concat())).await.unwrap();
        }
        // What answers the heartbeat has read all that was before it.
        stream.write_all(&frame(COMMAND, b"\x04PING\0\x0acontext")).await.unwrap();
        assert_eq!(read_frame(&mut stream).await.unwrap(), (COMMAND, b"\x04PONGcontext".to_vec()));
        stream
    }

    #[test]
    fn subscribers_have_the_messages_of_their_topics() {
        with_publisher(async |publisher, address| {
            let mut one = subscriber(address, &[b"kv@a", b"no"]).await;
            let mut other = subscriber(address, &[b"kv@b", b"kv@", b"kv@"]).await;
            other.write_all(&frame(0, b"\0kv@")).await.unwrap(); // one of the two is left
            let long = vec![7; 300];
            publisher.send("kv@b@m", [b"8 bytes.", b"x"]);
            publisher.send("kv@a@m", [b"8 bytes.", &long]);
            let read = async |stream: &mut TcpStream, topic: &[u8], last: &[u8]| {
                for expected in [(MORE, topic), (MORE, b"8 bytes."), (0, last)] {
                    let (flags, body) = read_frame(stream).await.unwrap();
                    assert_eq!((flags, &body[..]), expected);
                }
            };
            read(&mut one, b"kv@a@m", &long).await;
            read(&mut other, b"kv@b@m", b"x").await;
            read(&mut other, b"kv@a@m", &long).await;
        });
    }

    #[test]
    fn who_breaks_the_protocol_is_left_and_others_are_not() {
        with_publisher(async |publisher, address| {
            let mut sound = subscriber(address, &[b""]).await;
            let ready = frame(COMMAND, SUBSCRIBER);
            let huge = |n: u64| [&[LONG][..], &n.to_be_bytes()].concat();
            let after_greeting = [
                huge(1 << 61),
                huge(u64::MAX),
                huge(MOST_BYTES + 1),
                [&[LONG | COMMAND][..], &(1_u64 << 40).to_be_bytes()].concat(),
                frame(COMMAND, b"\x05READY\x0bSocket-Type\0\0\0\x03PUB"),
                frame(COMMAND, b"\x05READY\x0bSocket-Type\xff\xff\xff\xffSUB"),
                frame(COMMAND, b"\xffREADY"),
                frame(COMMAND, b""),
                frame(0, b"\x01kv@"),
                [&ready[..], &huge(1 << 61)].concat(),
                [&ready[..], &frame(0, b"\x02")].concat(),
                [&ready[..], &frame(0, b"")].concat(),
                [&ready[..], &frame(MORE, b"\x01")].concat(),
                [&ready[..], &frame(0, b"\x01").repeat(MOST_TOPICS + 1)].concat(),
            ];
            for bytes in after_greeting {
                let mut stream = greeted(address).await;
                let _ = stream.write_all(&bytes).await; // it may be closed by now
                let mut rest = Vec::new();
                let ended = stream.read_to_end(&mut rest).await;
                assert!(ended.is_err() || rest.is_empty(), "{}: {rest:?}", bytes.escape_ascii());
            }
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: a client of another kind\r\n\r\n")
                .await
                .unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(rest.len() <= GREETING.len());
            publisher.send("kv@", [b"1", b"2"]);
            assert_eq!(read_frame(&mut sound).await.unwrap(), (MORE, b"kv@".to_vec()));
        });
    }
}
