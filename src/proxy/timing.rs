//! `Server-Timing`: where the time of a request went, for whoever looks at it in a browser (W3C Server Timing).

use std::fmt::Write as _;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::message::ResponseHead;
use crate::observe::metrics::CacheResult;
use crate::proxy::context::Active;
use crate::upstream::Wanted;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Says it beside what the app says. What is not known yet, the time that the response itself takes above all, is not in it.
pub fn add(response: &mut ResponseHead, active: &Active) {
    let attempt = &active.attempt;
    let parts = [
        ("receive", active.receive_time),
        ("queue", active.wanted.as_ref().map(Wanted::queued)),
        ("connect", attempt.connect_time),
        ("app", attempt.first_byte_time),
    ];
    let total = active.exchange.started.elapsed();
    let elsewhere: Duration = parts.iter().filter_map(|(_, time)| *time).sum();
    let mut text = String::with_capacity(96);
    for (name, time) in parts.into_iter().filter_map(|(name, time)| Some((name, time?))) {
        write(&mut text, name, time);
    }
    write(&mut text, "gateway", total.saturating_sub(elsewhere));
    write(&mut text, "total", total);
    if let Some(result) = active.visit.as_ref().and_then(|visit| visit.outcome()).map(CacheResult::text) {
        text.push_str(", cache;desc=");
        text.push_str(result);
    }
    if let Ok(value) = HeaderValue::try_from(text) {
        response.headers.append(SERVER_TIMING, value);
    }
}

/// In milliseconds.
fn write(text: &mut String, name: &str, time: Duration) {
    if !text.is_empty() {
        text.push_str(", ");
    }
    // Into memory.
    let _ = write!(text, "{name};dur={:.3}", time.as_secs_f64() * 1e3);
}
