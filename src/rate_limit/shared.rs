//! The buckets in Redis: `token_bucket.lua` decides there, by the clock that is there.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Cmd, Value};

use super::bucket::{Bucket, Decision};
use super::local::Ask;
use crate::redis::{Redis, Script, Unanswered};

/// The script's text.
pub const SCRIPT: &str = include_str!("token_bucket.lua");

static TOKEN_BUCKET: LazyLock<Script> = LazyLock::new(|| Script::new(SCRIPT));

/// Takes the tokens of a request: of all buckets, or of none if one that must agree has too few. One round trip. In a cluster, where
/// every bucket may be on another node, each is asked for itself at the same time: what was taken in vain is for [`give_back`].
///
/// What comes back is as long as `asks`.
pub async fn take(redis: &Redis, asks: &[Ask]) -> Vec<Result<Decision, Unanswered>> {
    let together = if redis.is_cluster() { 1 } else { asks.len().max(1) };
    let answers = asks.chunks(together).map(|asks| async move {
        match run(redis, asks, false).await {
            Ok(decisions) => decisions.into_iter().map(Ok).collect(),
            Err(why) => vec![Err(why); asks.len()],
        }
    });
    join_all(answers).await.concat()
}

/// Gives tokens back, a moment later.
pub fn give_back(redis: &Arc<Redis>, taken: Vec<Ask>) {
    let redis = redis.clone();
    tokio::spawn(async move {
        for ask in taken {
            if let Err(error) = run(&redis, &[ask], true).await {
                tracing::debug!(%error, "tokens were not given back");
            }
        }
    });
}

async fn run(redis: &Redis, asks: &[Ask], back: bool) -> Result<Vec<Decision>, Unanswered> {
    redis.run(&TOKEN_BUCKET, |command| write(command, asks, back), |answer| read(answer, asks)).await
}

/// What the script is to know. With `back` the tokens are given, not taken.
fn write(command: &mut Cmd, asks: &[Ask], back: bool) {
    command.arg(asks.len());
    for ask in asks {
        command.arg(ask.key.to_string());
    }
    for Ask { bucket, must_agree, .. } in asks {
        command.arg(bucket.tokens).arg(bucket.micros).arg(bucket.burst);
        if back {
            command.arg(format!("-{}", bucket.cost));
        } else {
            command.arg(bucket.cost);
        }
        command.arg(u8::from(*must_agree));
    }
}

/// What the script has answered; none where no script of ours answers so.
fn read(answer: &Value, asks: &[Ask]) -> Option<Vec<Decision>> {
    let Value::Array(values) = answer else { return None };
    if values.len() != asks.len() * 3 {
        return None;
    }
    let triples = values.chunks_exact(3).zip(asks);
    triples.map(|(triple, ask)| read_one(triple, &ask.bucket)).collect()
}

fn read_one(triple: &[Value], bucket: &Bucket) -> Option<Decision> {
    let number = |value: &Value| match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    };
    let [wait, remaining, full_in] = triple else { return None };
    let (wait, remaining, full_in) = (number(wait)?, number(remaining)?, number(full_in)?);
    let longest = (bucket.burst * bucket.micros).div_ceil(bucket.tokens);
    (wait <= longest && full_in <= longest && remaining <= bucket.burst).then_some(Decision {
        wait: Duration::from_micros(wait),
        remaining,
        full_in: Duration::from_micros(full_in),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Rate;
    use crate::rate_limit::key::Key;

    #[test]
    fn nonsense_is_no_answer() {
        let rate = Rate { count: 10, period: Duration::from_secs(1), burst: 10, cost: 1 };
        let ask = Ask { rule: 0, key: Key([0; 16]), bucket: Bucket::new(&rate), must_agree: true };
        let ints = |list: &[i64]| Value::Array(list.iter().map(|int| Value::Int(*int)).collect());
        let good = read(&ints(&[0, 9, 100_000]), &[ask]).unwrap();
        assert_eq!((good[0].remaining, good[0].full_in), (9, Duration::from_millis(100)));
        for bad in [
            Value::Nil,
            Value::Okay,
            Value::Int(0),
            ints(&[]),
            ints(&[0, 9]),
            ints(&[0, 9, 0, 0]),
            ints(&[-1, 9, 0]),
            ints(&[0, 11, 0]),
            ints(&[2_000_000, 0, 0]),
            ints(&[0, 0, i64::MAX]),
            Value::Array(vec![Value::Nil, Value::Nil, Value::Nil]),
        ] {
            assert_eq!(read(&bad, &[ask]), None, "{bad:?}");
        }
    }
}
