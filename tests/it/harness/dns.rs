//! A tiny name server over UDP (RFC 1035): answers A and AAAA as a test says, and what it says may change at any time.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

/// What is known about one name.
#[derive(Clone)]
enum Answer {
    Addresses { ttl: u32, addresses: Vec<IpAddr> },
    ServerFailure,
    Silence,
}

/// A running name server; names it was told nothing about do not exist (NXDOMAIN).
pub struct DnsServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    answers: Mutex<HashMap<String, Answer>>,
    queries: Mutex<Vec<(String, u16)>>,
}

impl DnsServer {
    /// On a free UDP port of the loopback address.
    pub fn start() -> Self {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || serve(&socket, &shared)
        });
        Self { address, shared, thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `name` has these addresses, for `ttl` seconds each time it is asked for. None: it has no address.
    pub fn set(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        self.put(name, Answer::Addresses { ttl, addresses });
    }

    /// From now on `name` does not exist.
    pub fn remove(&self, name: &str) {
        self.shared.answers.lock().unwrap().remove(&known_as(name));
    }

    /// From now on a question for `name` is answered with SERVFAIL.
    pub fn fail(&self, name: &str) {
        self.put(name, Answer::ServerFailure);
    }

    /// From now on a question for `name` is not answered.
    pub fn silence(&self, name: &str) {
        self.put(name, Answer::Silence);
    }

    /// How often `name` was asked for, of whatever type.
    pub fn queries(&self, name: &str) -> usize {
        let queries = self.shared.queries.lock().unwrap();
        let name = known_as(name);
        queries.iter().filter(|(asked, _)| *asked == name).count()
    }

    fn put(&self, name: &str, answer: Answer) {
        let mut answers = self.shared.answers.lock().unwrap();
        answers.insert(known_as(name), answer);
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        // An empty datagram is no question; it ends the thread.
        let stop = UdpSocket::bind(("127.0.0.1", 0)).and_then(|s| s.send_to(&[], self.address));
        if let (Ok(_), Some(thread)) = (stop, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

fn known_as(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn serve(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 4096];
    while let Ok((count, from)) = socket.recv_from(&mut buffer) {
        if count == 0 {
            return;
        }
        if let Some(reply) = reply_to(&buffer[..count], shared) {
            let _ = socket.send_to(&reply, from);
        }
    }
}

/// One question of a message, as it stands there.
struct Question<'a> {
    bytes: &'a [u8],
    name: String,
    kind: u16,
}

fn parse_question(message: &[u8]) -> Option<Question<'_>> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*message.get(at)?);
        let label = message.get(at + 1..at + 1 + length)?;
        at += 1 + length;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(label).into_owned());
    }
    let kind = u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?);
    Some(Question { bytes: message.get(12..at + 4)?, name: known_as(&labels.join(".")), kind })
}

/// The reply to one message; none where it is no question, or shall stay unanswered.
fn reply_to(message: &[u8], shared: &Shared) -> Option<Vec<u8>> {
    let question = parse_question(message)?;
    let asked = (question.name.clone(), question.kind);
    shared.queries.lock().unwrap().push(asked);
    let answer = shared.answers.lock().unwrap().get(&question.name).cloned();
    let (code, ttl, addresses) = match answer {
        Some(Answer::Addresses { ttl, addresses }) => (0, ttl, addresses),
        Some(Answer::ServerFailure) => (2, 0, Vec::new()),
        Some(Answer::Silence) => return None,
        None => (3, 0, Vec::new()),
    };
    let records: Vec<Vec<u8>> =
        addresses.into_iter().filter_map(|address| record(question.kind, ttl, address)).collect();
    let count = u16::try_from(records.len()).ok()?;
    let mut reply = message.get(..2)?.to_vec();
    // A response, authoritative, recursion desired and available.
    reply.extend([0x85, 0x80 | code, 0, 1]);
    reply.extend(count.to_be_bytes());
    reply.extend([0, 0, 0, 0]);
    reply.extend(question.bytes);
    reply.extend(records.concat());
    Some(reply)
}

/// A resource record for the name in the question; none where the type is another.
fn record(kind: u16, ttl: u32, address: IpAddr) -> Option<Vec<u8>> {
    let data = match (kind, address) {
        (TYPE_A, IpAddr::V4(address)) => address.octets().to_vec(),
        (TYPE_AAAA, IpAddr::V6(address)) => address.octets().to_vec(),
        _ => return None,
    };
    // A pointer to the name at byte 12, the type, class IN.
    let mut record = vec![0xc0, 12];
    record.extend(kind.to_be_bytes());
    record.extend([0, 1]);
    record.extend(ttl.to_be_bytes());
    record.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
    record.extend(data);
    Some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &[u8] =
        b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\x01\x03App\x04test\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0";

    fn ask(server: &DnsServer) -> Vec<u8> {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        socket.send_to(QUESTION, server.address()).unwrap();
        let mut reply = vec![0; 512];
        let count = socket.recv(&mut reply).unwrap();
        reply.truncate(count);
        reply
    }

    #[test]
    fn answers_change_at_run_time() {
        let server = DnsServer::start();
        assert_eq!(ask(&server)[3] & 0x0f, 3);
        server.set("app.test", 7, &["10.1.2.3", "::1"]);
        let reply = ask(&server);
        assert_eq!(reply[..8], *b"\x12\x34\x85\x80\0\x01\0\x01");
        assert!(reply.ends_with(b"\xc0\x0c\0\x01\0\x01\0\0\0\x07\0\x04\x0a\x01\x02\x03"));
        server.fail("APP.test.");
        assert_eq!(ask(&server)[3] & 0x0f, 2);
        assert_eq!(server.queries("app.test"), 3);
    }
}
