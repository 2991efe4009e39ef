//! Points in time as text, in UTC: RFC 3339 for JSON and diagnostics, the Common Log Format's shape for `combined`.
//!
//! The date is worked out once a second and thread; a line costs a copy and the digits of the fraction.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

/// The last second that has a four-digit year: 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;
const SECONDS_PER_DAY: u64 = 86_400;
const MONTHS: [(&str, u64); 12] = [
    ("Jan", 31),
    ("Feb", 28),
    ("Mar", 31),
    ("Apr", 30),
    ("May", 31),
    ("Jun", 30),
    ("Jul", 31),
    ("Aug", 31),
    ("Sep", 30),
    ("Oct", 31),
    ("Nov", 30),
    ("Dec", 31),
];

/// Both texts of one second.
struct Second {
    since_epoch: u64,
    rfc3339: String,
    common: String,
}

thread_local! {
    static CURRENT: RefCell<Second> = RefCell::new(Second::of(0));
}

/// Appends `2026-11-21T10:00:00.123456Z`. A time before 1970 is written as 1970 begins, one past 9999 as its last second.
pub(crate) fn write_rfc3339_micros(time: SystemTime, out: &mut Vec<u8>) {
    let (second, micros) = split(time);
    with_second(second, |texts| {
        out.extend_from_slice(texts.rfc3339.as_bytes());
    });
    out.push(b'.');
    write_padded(micros, 6, out);
    out.push(b'Z');
}

/// Appends `2026-11-21T10:00:00.123Z`, with the bounds of [`write_rfc3339_micros`].
pub(crate) fn write_rfc3339_millis(time: SystemTime, out: &mut Vec<u8>) {
    let (second, micros) = split(time);
    with_second(second, |texts| {
        out.extend_from_slice(texts.rfc3339.as_bytes());
    });
    out.push(b'.');
    write_padded(micros / 1000, 3, out);
    out.push(b'Z');
}

/// Appends `21/Nov/2026:10:00:00 +0000`, with the bounds of [`write_rfc3339_micros`].
pub(crate) fn write_common(time: SystemTime, out: &mut Vec<u8>) {
    let (second, _) = split(time);
    with_second(second, |texts| {
        out.extend_from_slice(texts.common.as_bytes());
    });
}

/// Appends `number` with leading zeros, `width` digits in all; digits above that are left out.
pub(crate) fn write_padded(number: u32, width: u32, out: &mut Vec<u8>) {
    for place in (0..width).rev() {
        let digit = number / 10_u32.saturating_pow(place) % 10;
        out.push(b'0'.saturating_add(u8::try_from(digit).unwrap_or(0)));
    }
}

/// Whole seconds since 1970 and the microseconds beyond them.
fn split(time: SystemTime) -> (u64, u32) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs().min(LAST_SECOND), since.subsec_micros())
}

fn with_second(since_epoch: u64, write: impl FnOnce(&Second)) {
    CURRENT.with_borrow_mut(|current| {
        if current.since_epoch != since_epoch {
            *current = Second::of(since_epoch);
        }
        write(current);
    });
}

impl Second {
    fn of(since_epoch: u64) -> Self {
        let (year, day_of_year) = year_of(since_epoch / SECONDS_PER_DAY);
        let (month, name, day) = month_of(day_of_year, is_leap(year));
        let of_day = since_epoch % SECONDS_PER_DAY;
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        Self {
            since_epoch,
            rfc3339: format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"),
            common: format!("{day:02}/{name}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000"),
        }
    }
}

/// The year a day since 1970 falls into, and its place in that year, from 0.
fn year_of(day: u64) -> (u64, u64) {
    // 146,097 days are 400 years; the estimate is off by one at most, around the turn of a year.
    let mut year = 1970 + day * 400 / 146_097;
    while first_day_of(year) > day {
        year -= 1;
    }
    while first_day_of(year + 1) <= day {
        year += 1;
    }
    (year, day - first_day_of(year))
}

/// Days from 1970-01-01 to the first of January of `year`, 1970 or later.
fn first_day_of(year: u64) -> u64 {
    let before = year - 1;
    let leap_days = before / 4 - before / 100 + before / 400;
    // 477 leap days lie before 1970 when counted the same way.
    (year - 1970) * 365 + leap_days - 477
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

/// The month from 1, its name, and the day in it from 1.
fn month_of(day_of_year: u64, leap: bool) -> (u64, &'static str, u64) {
    let mut day = day_of_year;
    for (month, (name, days)) in (1..).zip(MONTHS) {
        let days = if month == 2 && leap { 29 } else { days };
        if day < days {
            return (month, name, day + 1);
        }
        day -= days;
    }
    (12, "Dec", 31)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64, micros: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros)
    }

    fn text(write: fn(SystemTime, &mut Vec<u8>), time: SystemTime) -> String {
        let mut out = Vec::new();
        write(time, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn known_times_in_all_shapes() {
        let time = at(1_795_255_200, 123_456);
        assert_eq!(text(write_rfc3339_micros, time), "2026-11-21T10:00:00.123456Z");
        assert_eq!(text(write_rfc3339_millis, time), "2026-11-21T10:00:00.123Z");
        assert_eq!(text(write_common, time), "21/Nov/2026:10:00:00 +0000");
        assert_eq!(text(write_rfc3339_micros, at(0, 7)), "1970-01-01T00:00:00.000007Z");
    }

    #[test]
    fn leap_days_and_turns_of_the_year() {
        assert_eq!(text(write_common, at(951_782_400, 0)), "29/Feb/2000:00:00:00 +0000");
        assert_eq!(text(write_common, at(951_868_800, 0)), "01/Mar/2000:00:00:00 +0000");
        assert_eq!(text(write_common, at(4_107_542_399, 0)), "28/Feb/2100:23:59:59 +0000");
        assert_eq!(text(write_common, at(4_107_542_400, 0)), "01/Mar/2100:00:00:00 +0000");
        assert_eq!(text(write_common, at(1_798_761_599, 0)), "31/Dec/2026:23:59:59 +0000");
    }

    #[test]
    fn times_out_of_range_are_clamped() {
        assert_eq!(text(write_common, UNIX_EPOCH - Duration::from_secs(1)), "01/Jan/1970:00:00:00 +0000");
        assert!(text(write_rfc3339_millis, at(LAST_SECOND + 5, 0)).starts_with("9999-12-31T23:59:59"));
    }

    proptest! {
        #[test]
        fn agrees_with_the_http_date(seconds in 0..LAST_SECOND) {
            // "Sun, 06 Nov 1994 08:49:37 GMT"
            let http = httpdate::fmt_http_date(at(seconds, 0));
            let expected = format!("{}/{}/{}:{} +0000", &http[5..7], &http[8..11], &http[12..16], &http[17..25]);
            prop_assert_eq!(text(write_common, at(seconds, 0)), expected);
        }
    }
}
