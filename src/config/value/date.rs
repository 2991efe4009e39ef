//! A day: `"2026-12-01"`.

use std::fmt;

use super::super::walk::{Reject, Text};

/// Midnight of a day, in seconds since 1970 by UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date(pub u64);

impl Text for Date {
    const KIND: &'static str = "date";
    const EXPECTED: &'static str = "a day such as \"2026-12-01\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        let parts: Vec<&str> = text.split('-').collect();
        let [year, month, day] = parts[..] else { return Err(Reject::Unlike) };
        let number = |text: &str, digits: usize| {
            let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| text.parse::<u64>().ok()).flatten()
        };
        let date = (number(year, 4), number(month, 2), number(day, 2));
        let (Some(year @ 1970..), Some(month @ 1..=12), Some(day @ 1..)) = date else { return Err(Reject::Unlike) };
        if day > days_of(year, month) {
            return Err(Reject::because("there is no such day"));
        }
        let years: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
        let months: u64 = (1..month).map(|month| days_of(year, month)).sum();
        Ok(Self((years + months + day - 1) * 86_400))
    }
}

fn is_leap(year: u64) -> bool {
    (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400)
}

fn days_of(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl fmt::Display for Date {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(self.0);
        out.write_str(&httpdate::fmt_http_date(time))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn days_are_read() {
        for (text, seconds) in [("1970-01-01", 0), ("2026-11-22", 1_795_305_600), ("2024-02-29", 1_709_164_800)] {
            assert_eq!(Date::parse(text).unwrap(), Date(seconds), "{text}");
        }
        for bad in [
            "",
            "2026-11",
            "2026-1-1",
            "2026-13-01",
            "2026-02-29",
            "2026-04-31",
            "1969-12-31",
            "2026-00-10",
            "+026-11-22",
        ] {
            assert!(Date::parse(bad).is_err(), "{bad}");
        }
    }
}
