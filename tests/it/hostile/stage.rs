//! One server with the recording app, the gateway in front of it, and the cases one after the other, each on a connection of
//! its own.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;

use super::case::{Answer, Case, STREAMED, Seen, Then, get};
use super::servers::{Kind, Line, Record, Server};
use super::sizes::MAX_BODY;
use super::target::{CLOSED, STRIPPED};
use crate::harness::{Address, Broken, Client, Gateway, Origin, PythonServer, eventually};

const TOML: &str = r#"
[server]
listen = ["127.0.0.1:0"]
[server.client]
max_body = "{max_body}"
[admin]
listen = ["127.0.0.1:0"]
[log]
access = "{dir}/access.log"
[upstreams.app]
preset = "{preset}"
endpoints = ["{app}"]
[[routes]]
path = "{closed}"
respond = { status = 403 }
[[routes]]
path = "{stripped}/*"
strip_prefix = "{stripped}"
upstream = "app"
[[routes]]
path = "{streamed}*"
upstream = "app"
buffer_requests = false
[[routes]]
upstream = "app"
"#;

/// Where the requests end that get through.
enum Behind {
    Wire { origin: Origin, streams: Streams },
    Python { server: Box<PythonServer>, records: PathBuf, _dir: TempDir },
}

/// What became of a body that was handed on as it came: once for its beginning, and once for its end before its time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Torn {
    Begun,
    Cut,
}

/// On the wire, for each path.
type Streams = Arc<Mutex<Vec<(Torn, String)>>>;

pub struct Stage {
    server: &'static Server,
    behind: Behind,
    gateway: Option<Gateway>,
    /// Where the cases are sent to.
    address: Address,
    /// How much was looked at of what came: requests on the wire, bytes of the record.
    seen: usize,
}

/// What became of the cases of one subject.
#[derive(Default)]
struct Counts {
    subject: &'static str,
    cases: usize,
    refused: usize,
    passed: usize,
    cut: usize,
    /// Requests that reached the app, those sent behind to see that the connection is good included.
    reached: usize,
}

#[derive(Default)]
pub struct Report {
    counts: Vec<Counts>,
    /// A line for each case: what was answered, what the app saw.
    lines: Vec<String>,
    pub failures: Vec<String>,
}

impl Stage {
    pub fn start(server: &'static Server) -> Self {
        let mut stage = Self::without_gateway(server);
        let gateway = Gateway::with(TOML)
            .set("max_body", &format!("{MAX_BODY}B"))
            .set("preset", server.preset)
            .set("app", &stage.address)
            .set("closed", CLOSED)
            .set("stripped", STRIPPED)
            .set("streamed", STREAMED)
            .start();
        stage.address = gateway.addr().clone();
        stage.gateway = Some(gateway);
        stage
    }

    /// The server alone.
    pub fn without_gateway(server: &'static Server) -> Self {
        let behind = match server.kind {
            Kind::Wire => {
                let streams = Streams::default();
                Behind::Wire { origin: wire(Arc::clone(&streams)), streams }
            }
            Kind::Wsgi(start) | Kind::Asgi(start) => {
                let dir = tempfile::tempdir().unwrap();
                let records = dir.path().join("records");
                Behind::Python {
                    server: Box::new(start().env("RECORD_FILE", &records.display()).start()),
                    records,
                    _dir: dir,
                }
            }
        };
        let address = match &behind {
            Behind::Wire { origin, .. } => origin.address().clone(),
            Behind::Python { server, .. } => server.address().clone(),
        };
        Self { server, behind, gateway: None, address, seen: 0 }
    }

    pub fn run(&mut self, corpus: &[(&'static str, Vec<Case>)]) -> Report {
        let mut report = Report::default();
        for (subject, cases) in corpus {
            let mut counts = Counts { subject, ..Counts::default() };
            for case in cases.iter().filter(|case| !case.is_streamed() || self.server.streams()) {
                counts.cases += 1;
                match case.then {
                    Then::Leaves | Then::Tears => counts.cut += 1,
                    _ if case.is_refused() => counts.refused += 1,
                    _ => counts.passed += 1,
                }
                self.judge(case, &mut counts, &mut report);
            }
            report.counts.push(counts);
        }
        report
    }

    /// Ends everything, and looks once more: nothing may have come late, and what the gateway answered by itself it asked
    /// no app about.
    #[track_caller]
    pub fn end(mut self) {
        Client::connect(&self.address).request("GET", "/good", &[("Host", "test")], "").expect(200);
        let late = self.new_records();
        assert_eq!(late.len(), 1, "{late:?}");
        let gateway = self.gateway.take().expect("a stage with a gateway");
        let is_last = |line: &Value| line["path"] == "/good";
        let lines = eventually("the last line of the access log", || {
            Some(gateway.access_log_now()).filter(|lines| lines.iter().any(is_last))
        });
        for line in lines {
            let streamed = line["path"].as_str().is_some_and(|path| path.starts_with(STREAMED));
            assert!(line.get("reason").is_none() || line.get("endpoint").is_none() || streamed, "{line}");
        }
        gateway.stop();
        match &mut self.behind {
            Behind::Wire { origin, .. } => origin.stop(),
            Behind::Python { server, .. } => server.stop(),
        }
        let late = self.new_records();
        assert!(late.is_empty(), "{late:?}");
    }

    fn judge(&mut self, case: &Case, counts: &mut Counts, report: &mut Report) {
        let told = self.send(case);
        let records = self.new_records();
        counts.reached += records.len();
        let mut expected: Vec<&Seen> = Vec::new();
        for answer in &case.answers {
            if let Answer::App(seen) = answer {
                expected.push(seen);
            }
        }
        let after = get(&after(case));
        if case.then == Then::Goes {
            expected.push(&after);
        }
        let mut wrong: Vec<String> = told.as_ref().err().cloned().into_iter().collect();
        if records.len() != expected.len() {
            wrong.push(format!("{} requests reached the app, not {}: {records:?}", records.len(), expected.len()));
        }
        let port = match &self.address {
            Address::Tcp(address) => address.port(),
            _ => 0,
        };
        for (seen, record) in expected.iter().zip(&records) {
            wrong.extend(self.server.differences(seen, record, port));
        }
        if !wrong.is_empty() {
            report.failures.push(format!("{} ({}): {}", case.name, case.clause, wrong.join("; ")));
        }
        report.lines.push(line(case, &told.unwrap_or_default(), &records));
    }

    /// Sends a case and reads what comes: the statuses, or what is wrong with them.
    fn send(&self, case: &Case) -> Result<Vec<u16>, String> {
        match case.then {
            Then::Leaves | Then::Tears => self.leave(case).map(|()| Vec::new()),
            Then::Closes | Then::Goes => self.talk(case),
        }
    }

    fn connect(&self) -> Client {
        Client::connect(&self.address)
    }

    fn talk(&self, case: &Case) -> Result<Vec<u16>, String> {
        let mut client = self.connect();
        let behind = match case.then {
            Then::Closes => format!("GET /smuggled/{} HTTP/1.1\r\nHost: test\r\n\r\n", case.name),
            _ => String::new(),
        };
        // A head that is too long may be answered before it is sent.
        let _ = client.try_send([case.raw.as_slice(), behind.as_bytes()].concat());
        let mut statuses = Vec::new();
        for answer in &case.answers {
            let response = client.try_response().map_err(|broken| format!("no answer: {broken:?}"))?;
            let (status, reason) = match answer {
                Answer::Own(told) => *told,
                Answer::App(_) => (200, None),
            };
            if response.status != status {
                return Err(format!("answered {}, not {status}", response.status));
            }
            if let Some(reason) = reason {
                let told: Value = serde_json::from_slice(&response.body).unwrap_or_default();
                let told = told["reason"].clone();
                if told != reason {
                    return Err(format!("answered {told}, not {reason}"));
                }
            }
            statuses.push(status);
        }
        if case.then == Then::Goes {
            client
                .try_send(format!("GET {} HTTP/1.1\r\nHost: test\r\n\r\n", after(case)))
                .map_err(|e| e.to_string())?;
            let response = client.try_response().map_err(|broken| format!("the connection is no good: {broken:?}"))?;
            if response.status != 200 {
                return Err(format!("answered {} behind", response.status));
            }
            client.half_close();
        }
        match client.read_rest() {
            Ok(rest) if rest.is_empty() => Ok(statuses),
            Err(Broken::Reset) => Ok(statuses),
            other => Err(format!("not closed: {other:?}")),
        }
    }

    fn leave(&self, case: &Case) -> Result<(), String> {
        for resets in [false, true] {
            let mut client = self.connect();
            client.send(&case.raw);
            // What has not begun is easy to keep from the app.
            let tears = case.then == Then::Tears && !self.server.reads_bodies_first;
            if tears {
                self.wait_until(Torn::Begun, case, usize::from(resets) + 1);
            }
            if resets {
                client.reset();
            } else {
                client.half_close();
                match client.try_response() {
                    Err(Broken::Closed | Broken::Reset) => {}
                    other => return Err(format!("told {other:?}")),
                }
            }
            if tears {
                self.wait_until(Torn::Cut, case, usize::from(resets) + 1);
            }
        }
        Ok(())
    }

    fn wait_until(&self, torn: Torn, case: &Case, times: usize) {
        let path = format!("{STREAMED}{}", case.name);
        eventually(&format!("{} is seen to begin, and to be cut", case.name), || {
            (self.streams().iter().filter(|(what, of)| (*what, of) == (torn, &path)).count() >= times).then_some(())
        });
    }

    fn streams(&self) -> Vec<(Torn, String)> {
        match &self.behind {
            Behind::Wire { streams, .. } => streams.lock().unwrap().clone(),
            Behind::Python { records, .. } => {
                let mut text = std::fs::read_to_string(records).unwrap_or_default();
                // A line that is still being written is the next look's.
                text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
                let torn = |line: &str| match Line::parse(line) {
                    Line::Begun(path) => Some((Torn::Begun, path)),
                    Line::Record(record) => Some((Torn::Cut, record.path?.0)).filter(|_| !record.whole),
                };
                text.lines().filter_map(torn).collect()
            }
        }
    }

    /// What has come since the last time. The beginning of a body that was handed on is no request.
    fn new_records(&mut self) -> Vec<Record> {
        let new: Vec<Record> = match &self.behind {
            Behind::Wire { origin, .. } => {
                let requests = origin.requests();
                let seen = std::mem::replace(&mut self.seen, requests.len());
                requests.into_iter().skip(seen).map(Record::from_wire).collect()
            }
            Behind::Python { records, .. } => {
                let text = std::fs::read_to_string(records).unwrap_or_default();
                let seen = std::mem::replace(&mut self.seen, text.len());
                text[seen..].lines().filter_map(record).collect()
            }
        };
        new.into_iter().filter(|record| record.whole || !record.is_streamed()).collect()
    }
}

fn record(line: &str) -> Option<Record> {
    match Line::parse(line) {
        Line::Record(record) => Some(record),
        Line::Begun(_) => None,
    }
}

/// Answers what is whole, and says what became of streamed bodies.
fn wire(streams: Streams) -> Origin {
    Origin::start(move |connection| {
        while let Some(mut request) = connection.read_head() {
            let target = request.target.clone();
            if target.starts_with(STREAMED) {
                streams.lock().unwrap().push((Torn::Begun, target.clone()));
            }
            if !connection.read_body(&mut request) {
                streams.lock().unwrap().push((Torn::Cut, target));
                return;
            }
            connection.answer(200, "seen");
        }
    })
}

fn after(case: &Case) -> String {
    format!("/after/{}", case.name)
}

impl Report {
    /// For people, where they ask for it.
    pub fn print(&self, server: &str) {
        let Ok(wanted) = std::env::var("PROPYLON_CORPUS") else { return };
        let mut text = format!(
            "\n{server:<20}{:>8}{:>9}{:>12}{:>9}{:>20}\n",
            "cases", "refused", "passed on", "cut off", "reached the app"
        );
        let mut all = Counts { subject: "together", ..Counts::default() };
        for counts in &self.counts {
            all.cases += counts.cases;
            all.refused += counts.refused;
            all.passed += counts.passed;
            all.cut += counts.cut;
            all.reached += counts.reached;
        }
        for Counts { subject, cases, refused, passed, cut, reached } in self.counts.iter().chain([&all]) {
            let _ = writeln!(text, "  {subject:<18}{cases:>8}{refused:>9}{passed:>12}{cut:>9}{reached:>20}");
        }
        if wanted == "all" {
            text += &self.lines.join("\n");
            text.push('\n');
        }
        // Not by the macro, whose text is kept from people when a test succeeds.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

fn line(case: &Case, statuses: &[u16], records: &[Record]) -> String {
    let shown = |record: &Record| {
        let target = record.target.as_deref().or(record.path.as_ref().map(|path| &*path.0)).unwrap_or_default();
        let target: String = target.chars().take(60).collect();
        format!("{} {target:?} {} fields, {} bytes", record.method, record.fields.len(), record.body.len())
    };
    let records: Vec<String> = records.iter().map(shown).collect();
    format!("  {:<45} {:<18} {statuses:?} {}", case.name, case.clause, records.join(" | "))
}
