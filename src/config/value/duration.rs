//! Durations: one whole number and one unit, `500ms`, `30s`, `5m`, `1h`.

use std::time::Duration;

use super::super::walk::{Reject, Text};

/// Nothing in a gateway waits longer, and adding this to a clock cannot overflow.
const LONGEST: Duration = Duration::from_hours(8760);

/// Unit and milliseconds, largest first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A duration that is longer than nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeout(pub Duration);

/// How long an idle connection may be reused, as written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Keepalive {
    /// What suits the preset.
    #[default]
    Auto,
    Off,
    After(Duration),
}

impl Text for Duration {
    const KIND: &'static str = "duration";
    const EXPECTED: &'static str = "a duration such as \"500ms\", \"30s\", \"5m\" or \"1h\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(Reject::Unlike);
        }
        if unit.is_empty() {
            return Err(Reject::because(format!("it needs a unit, as in \"{number}s\"")));
        }
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(Reject::Unlike)?;
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(*scale))
            .map(Self::from_millis)
            .filter(|duration| *duration <= LONGEST)
            .ok_or_else(|| Reject::because("it is longer than a year, 8760h"))
    }
}

impl Text for Timeout {
    const KIND: &'static str = "duration above 0";
    const EXPECTED: &'static str = "a duration above 0 such as \"500ms\", \"30s\", \"5m\" or \"1h\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        match Duration::parse(text)? {
            Duration::ZERO => Err(Reject::Unlike),
            duration => Ok(Self(duration)),
        }
    }
}

impl Text for Keepalive {
    const KIND: &'static str = "duration, \"auto\" or \"off\"";
    const EXPECTED: &'static str = "\"auto\", \"off\" or a duration such as \"500ms\" or \"5s\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => match Duration::parse(text)? {
                Duration::ZERO => Err(Reject::because("no reuse is written \"off\"")),
                duration => Ok(Self::After(duration)),
            },
        }
    }
}

/// `duration` as it would be written, in the largest unit that divides it. Less than a millisecond is dropped.
#[must_use]
pub fn text(duration: Duration) -> String {
    let millis = duration.as_millis();
    let whole = UNITS.iter().find(|(_, scale)| millis > 0 && millis.is_multiple_of(u128::from(*scale)));
    whole.map_or_else(|| "0s".to_owned(), |(unit, scale)| format!("{}{unit}", millis / u128::from(*scale)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_number_and_one_unit() {
        assert_eq!(Duration::parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(Duration::parse("0s"), Ok(Duration::ZERO));
        assert_eq!(Duration::parse("5m"), Ok(Duration::from_mins(5)));
        assert_eq!(Duration::parse("8760h"), Ok(LONGEST));
        for bad in
            ["", "s", "5", "-5s", "1.5s", "1h30m", "5 s", " 5s", "5S", "5d", "8761h", "99999999999999999999s", "5ｓ"]
        {
            assert!(Duration::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn zero_is_no_timeout() {
        assert!(Timeout::parse("0ms").is_err());
        assert_eq!(Timeout::parse("1ms"), Ok(Timeout(Duration::from_millis(1))));
        assert_eq!(Keepalive::parse("auto"), Ok(Keepalive::Auto));
        assert_eq!(Keepalive::parse("off"), Ok(Keepalive::Off));
        assert!(Keepalive::parse("0s").is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(millis in 0..=31_536_000_000_u64) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(Duration::parse(&text(duration)), Ok(duration));
        }

        #[test]
        fn never_panics(text in ".{0,12}") {
            let _ = Keepalive::parse(&text);
        }
    }
}
