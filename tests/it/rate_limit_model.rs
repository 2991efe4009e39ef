//! The script in a real Redis and the arithmetic of this crate, side by side: the same times, the same questions, the same answers
//! and the same that is kept.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use propylon::config::model::Rate;
use propylon::rate_limit::bucket::{Bucket, Fill};
use propylon::rate_limit::shared::SCRIPT;

use crate::harness::RedisServer;

/// Milliseconds.
const LATER: i64 = 1_000_000_000;

/// Two buckets of one request, as in Redis.
struct Model {
    buckets: [(Bucket, Fill, bool); 2],
}

/// What is said of each bucket: microseconds to wait, tokens left, microseconds until it is full.
type Answer = Vec<[u64; 3]>;

impl Model {
    fn take(&mut self, now: u64) -> Answer {
        let agreed = self.buckets.iter().all(|(bucket, fill, must)| !must || bucket.look(*fill, now).is_allowed());
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap();
        let one = |(bucket, fill, _): &mut (Bucket, Fill, bool)| {
            // Without agreement nothing is taken: it is a question of what one would have left if it cost nothing.
            let (asked, after) = bucket.take(*fill, now);
            let wait = micros(asked.wait);
            let shown = if agreed && asked.is_allowed() {
                *fill = after;
                asked
            } else {
                Bucket { cost: 0, ..*bucket }.look(*fill, now)
            };
            [wait, shown.remaining, micros(shown.full_in)]
        };
        self.buckets.iter_mut().map(one).collect()
    }
}

/// Usual ones, and ones as large as can be counted.
fn rates() -> impl Strategy<Value = Rate> {
    let rate = |(count, seconds, burst, cost): (u32, u64, u32, u32)| {
        let rate = Rate { count, period: Duration::from_secs(seconds), burst: 1, cost: 1 };
        let most = u32::try_from(Rate::TICKS_MAX / rate.ticks()).unwrap_or(u32::MAX);
        let burst = burst.min(most);
        Rate { burst, cost: cost.min(burst), ..rate }
    };
    let usual = (1_u32..2000, 1_u64..100_000, 1_u32..300, 1_u32..5);
    let large = (1_u32..=1_000_000_000, 1_u64..=31 * 86_400, Just(1_000_000_000_u32), 1_u32..=1_000_000_000);
    prop_oneof![usual, large].prop_map(rate)
}

#[test]
fn the_script_and_the_model_agree() {
    let server = RedisServer::start();
    let connection = RefCell::new(server.connect());
    // The clock is put in, and a time that no run takes before a key expires by the clock outside.
    let clock = "local time = redis.call('TIME')\nlocal now = time[1] * 1000000 + time[2]\n";
    let expiry = "'PX', math.ceil((ahead + 1) / 1000)";
    assert_eq!((SCRIPT.matches(clock).count(), SCRIPT.matches(expiry).count()), (1, 1));
    let later = format!("'PX', {LATER} + math.ceil((ahead + 1) / 1000)");
    let script = SCRIPT.replace(clock, "local now = tonumber(ARGV[#ARGV])\n").replace(expiry, &later);
    let script = redis::Script::new(&script);
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    let steps = prop::collection::vec(prop_oneof![0_i64..5, 0_i64..3_000_000, -1000_i64..100_000_000_000], 1..40);
    let start = 1_760_000_000_000_000_u64..1_900_000_000_000_000;
    proptest!(config, |(rates in [rates(), rates()], must in any::<[bool; 2]>(), steps in steps, start in start)| {
        let connection = &mut *connection.borrow_mut();
        redis::cmd("FLUSHALL").exec(connection).unwrap();
        let each = |index: usize| (Bucket::new(&rates[index]), Fill::default(), must[index]);
        let mut model = Model { buckets: [each(0), each(1)] };
        let (mut now, mut written) = (start, HashMap::new());
        for step in steps {
            now = now.saturating_add_signed(step);
            let mut call = script.prepare_invoke();
            call.key("a").key("b");
            for (bucket, _, must) in &model.buckets {
                call.arg(bucket.tokens).arg(bucket.micros).arg(bucket.burst).arg(bucket.cost).arg(u8::from(*must));
            }
            let answer: Vec<u64> = call.arg(now).invoke(connection).unwrap();
            let answer: Answer = answer.chunks(3).map(|three| three.try_into().unwrap()).collect();
            let before = model.buckets;
            prop_assert_eq!(answer, model.take(now));
            for (index, key) in ["a", "b"].into_iter().enumerate() {
                if model.buckets[index].1 != before[index].1 {
                    written.insert(key, now);
                }
            }
            for ((_, fill, _), key) in model.buckets.iter().zip(["a", "b"]) {
                let kept: Option<String> = redis::cmd("GET").arg(key).query(connection).unwrap();
                let Some(kept) = kept else {
                    prop_assert_eq!(*fill, Fill::default(), "only what was never taken from is not there");
                    continue;
                };
                prop_assert_eq!(kept, format!("{} {}", fill.full_at, fill.ticks));
                let expires: i64 = redis::cmd("PTTL").arg(key).query(connection).unwrap();
                let expected = LATER + i64::try_from((fill.full_at - written[key]) / 1000 + 1).unwrap();
                prop_assert!((expected - 60_000..=expected).contains(&expires), "{} of {}", expires, expected);
            }
        }
    });
}
