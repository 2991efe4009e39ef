//! What stays in memory when more is asked for than fits: what is asked for often; and no more memory than was given.

use std::fs;

use super::{Said, app, builder_with};
use crate::harness::{Gateway, Origin, rounds};

/// Bytes of a body: with its head about a thousand of them in a mebibyte.
const BODY: usize = 900;
/// Of the cache.
const MEMORY: usize = 4 << 20;
/// What an answer costs in memory, about.
const COST: usize = 1900;

fn origin() -> Origin {
    app(|request, _| {
        let mut body = request.target.clone().into_bytes();
        body.resize(BODY, b'.');
        Said::ok("Content-Type: text/plain", body)
    })
}

fn start(origin: &Origin) -> Gateway {
    let sizes = format!("memory = \"{}MiB\"", MEMORY >> 20);
    builder_with(origin, "ttl = \"1h\"", "", &sizes).start()
}

fn hits(gateway: &Gateway) -> f64 {
    gateway.metrics().value("propylon_cache_requests_total", &[("rule", "all"), ("result", "hit")]).unwrap()
}

/// Resident memory in KiB.
fn resident(gateway: &Gateway) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Numbers below `count`, the first most often: the one at place n as 1/n (Zipf's law).
struct Zipf {
    sums: Vec<f64>,
    state: u64,
}

impl Zipf {
    fn new(count: usize) -> Self {
        #[allow(clippy::cast_precision_loss)]
        let sums = (1..=count).scan(0.0, |sum, place| {
            *sum += 1.0 / place as f64;
            Some(*sum)
        });
        Self { sums: sums.collect(), state: 0x9E37_79B9_7F4A_7C15 }
    }

    fn next(&mut self) -> usize {
        // xorshift64*: the same sequence each time.
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        #[allow(clippy::cast_precision_loss)]
        let share = (self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64;
        let wanted = share * self.sums.last().unwrap();
        self.sums.partition_point(|sum| *sum < wanted)
    }

    /// The share of requests that the first `count` have.
    fn share(&self, count: usize) -> f64 {
        self.sums[count - 1] / self.sums.last().unwrap()
    }
}

/// With room for a tenth of all there is: the hit rate beside what is best, which is to have the tenth that is asked for most.
#[test]
fn what_is_asked_for_most_stays() {
    let origin = origin();
    let gateway = start(&origin);
    let room = MEMORY / COST;
    let mut zipf = Zipf::new(room * 10);
    let mut client = gateway.connect();
    let mut rate = 0.0;
    for _ in 0..2 {
        let (before, count) = (hits(&gateway), rounds(20_000, 200_000));
        for _ in 0..count {
            let answer = client.get(&format!("/{}", zipf.next())).expect(200);
            assert_eq!(answer.body.len(), BODY);
        }
        #[allow(clippy::cast_precision_loss)]
        let share = (hits(&gateway) - before) / count as f64;
        rate = share;
    }
    let best = zipf.share(room);
    println!("hit rate {rate:.3}, with the most wanted tenth in memory {best:.3}");
    assert!(rate > best - 0.12, "{rate} of {best}");
}

/// Ten times the memory is asked for, once each: what was asked for often before is still there, and the process no larger than it
/// may be.
#[test]
fn a_scan_flushes_nothing_and_takes_no_memory() {
    let origin = origin();
    let gateway = start(&origin);
    let mut client = gateway.connect();
    let hot = MEMORY / COST / 4;
    // Until the allocator has what it wants for connections and the like.
    let before = resident(&gateway);
    for _ in 0..3 {
        (0..hot).for_each(|number| drop(client.get(&format!("/hot/{number}")).expect(200)));
    }
    for number in 0..rounds(10, 100) * MEMORY / COST {
        client.get(&format!("/scan/{number}")).expect(200);
    }
    let asked = hits(&gateway);
    (0..hot).for_each(|number| drop(client.get(&format!("/hot/{number}")).expect(200)));
    #[allow(clippy::cast_precision_loss)]
    let kept = (hits(&gateway) - asked) / hot as f64;
    let grown = (resident(&gateway) - before) * 1024;
    let (kept_percent, grown_kib) = ((kept * 100.0).round(), grown >> 10);
    println!("{kept_percent} % of the hot answers kept; {grown_kib} KiB more for {} of cache", MEMORY >> 10);
    assert!(kept > 0.9, "{kept}");
    // The cache, what its answers cost beside their bytes, and the copies on their way.
    assert!(grown < MEMORY * 2 + (4 << 20), "{grown}");
}
