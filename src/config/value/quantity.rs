//! Amounts: sizes `8KiB`, rates `500B/s`, shares `20%`.

use std::fmt;

use super::super::walk::{Reject, Text};

/// Unit and bytes, largest first, so that the first that divides is the shortest text.
const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// A number of bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A number of bytes that part of a request head may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeadSize(pub usize);

/// Bytes a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rate(pub u64);

/// Hundredths, 0 to 100.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Percent(pub u8);

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, scale)| self.0 > 0 && self.0.is_multiple_of(*scale)) {
            Some((unit, scale)) => write!(out, "{}{unit}", self.0 / scale),
            None => out.write_str("0B"),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/s", Size(self.0))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}%", self.0)
    }
}

impl Text for Size {
    const KIND: &'static str = "size";
    const EXPECTED: &'static str = "a size such as \"512B\", \"8KiB\", \"10MiB\" or \"10MB\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(Reject::Unlike);
        }
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            let likely = match unit {
                "" | "b" | "bytes" => "B",
                "k" | "K" | "kb" | "kB" | "kib" | "Ki" => "KiB",
                "m" | "M" | "mb" | "mib" | "Mb" | "Mi" => "MiB",
                "g" | "G" | "gb" | "gib" | "Gb" | "Gi" => "GiB",
                _ => return Err(Reject::Unlike),
            };
            return Err(Reject::Near(format!("{number}{likely}")));
        };
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(*scale))
            // Lengths are compared with signed file offsets in places.
            .filter(|bytes| i64::try_from(*bytes).is_ok())
            .map(Self)
            .ok_or_else(|| Reject::because("it is too large"))
    }
}

impl Text for HeadSize {
    const KIND: &'static str = "size, 64B to 1MiB";
    const EXPECTED: &'static str = "a size from \"64B\" to \"1MiB\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        // Every connection may hold one head, so the limit itself has a limit.
        match Size::parse(text)?.0 {
            bytes @ 64..=0x10_0000 => usize::try_from(bytes).map(Self).map_err(|_| Reject::Unlike),
            _ => Err(Reject::Unlike),
        }
    }
}

impl Text for Rate {
    const KIND: &'static str = "bytes a second";
    const EXPECTED: &'static str = "a rate such as \"500B/s\" or \"1KiB/s\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        let size = text.strip_suffix("/s").ok_or(Reject::Unlike)?;
        Size::parse(size).map(|size| Self(size.0)).map_err(|reject| match reject {
            Reject::Near(near) => Reject::Near(format!("{near}/s")),
            other => other,
        })
    }
}

/// A share in millionths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share(pub u32);

impl Text for Share {
    const KIND: &'static str = "percentage";
    const EXPECTED: &'static str = "a percentage such as \"100%\", \"5%\" or \"0.01%\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        let number = text.strip_suffix('%').ok_or(Reject::Unlike)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(part) || part.len() > 4 {
            return Err(Reject::Unlike);
        }
        let millionths = format!("{whole}{part:0<4}").parse().map_err(|_| Reject::Unlike)?;
        if millionths > 1_000_000 { Err(Reject::Unlike) } else { Ok(Self(millionths)) }
    }
}

impl Text for Percent {
    const KIND: &'static str = "percentage";
    const EXPECTED: &'static str = "a percentage from \"0%\" to \"100%\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        let number = text.strip_suffix('%').ok_or(Reject::Unlike)?;
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Reject::Unlike);
        }
        number.parse().ok().filter(|percent| *percent <= 100).map(Self).ok_or(Reject::Unlike)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn powers_of_two_and_of_ten() {
        assert_eq!(Size::parse("8KiB"), Ok(Size(8192)));
        assert_eq!(Size::parse("10MB"), Ok(Size(10_000_000)));
        assert_eq!(Size::parse("10MiB"), Ok(Size(10 << 20)));
        assert_eq!(Size::parse("0B"), Ok(Size(0)));
        assert_eq!(Size::parse("10m"), Err(Reject::Near("10MiB".into())));
        assert_eq!(Size::parse("100"), Err(Reject::Near("100B".into())));
        for bad in ["", "MiB", "-1B", "1.5MiB", "1 MiB", "9999999999999GiB", "18446744073709551615B"] {
            assert!(Size::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn heads_rates_and_shares_have_bounds() {
        assert!(HeadSize::parse("63B").is_err());
        assert_eq!(HeadSize::parse("1MiB"), Ok(HeadSize(1 << 20)));
        assert!(HeadSize::parse("2MiB").is_err());
        assert_eq!(Rate::parse("500B/s"), Ok(Rate(500)));
        assert_eq!(Rate::parse("1k/s"), Err(Reject::Near("1KiB/s".into())));
        assert!(Rate::parse("500B").is_err());
        assert_eq!(Percent::parse("100%"), Ok(Percent(100)));
        for bad in ["101%", "20", "%", "+5%", "0.2%", "300%"] {
            assert!(Percent::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(bytes in 0..=i64::MAX as u64, scale in 0..4_u32, percent in 0..=100_u8) {
            let size = Size(bytes >> 30 << (10 * scale).min(30));
            prop_assert_eq!(Size::parse(&size.to_string()), Ok(size));
            prop_assert_eq!(Size::parse(&Size(bytes).to_string()), Ok(Size(bytes)));
            prop_assert_eq!(Rate::parse(&Rate(bytes).to_string()), Ok(Rate(bytes)));
            prop_assert_eq!(Percent::parse(&Percent(percent).to_string()), Ok(Percent(percent)));
        }

        #[test]
        fn never_panics(text in ".{0,12}") {
            let _ = (Size::parse(&text), Rate::parse(&text), Percent::parse(&text));
        }
    }
}
