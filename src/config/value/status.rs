//! Sets of status codes: `200-299,401`.

use std::fmt;

use super::super::model::StatusRanges;
use super::super::walk::{Reject, Text};

impl Text for StatusRanges {
    const KIND: &'static str = "status codes";
    const EXPECTED: &'static str = "status codes such as \"200-299\" or \"200-299,401\"";

    fn parse(text: &str) -> Result<Self, Reject> {
        text.split(',').map(|part| range(part.trim())).collect::<Result<_, _>>().map(Self)
    }
}

fn range(text: &str) -> Result<(u16, u16), Reject> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (code(low)?, code(high)?);
    if low > high {
        return Err(Reject::because(format!("{low} is above {high}")));
    }
    Ok((low, high))
}

fn code(text: &str) -> Result<u16, Reject> {
    if text.len() != 3 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Reject::Unlike);
    }
    let code = text.parse().map_err(|_| Reject::Unlike)?;
    // 1xx is never the last word of a probe.
    if (200..=599).contains(&code) { Ok(code) } else { Err(Reject::because("a final status is 200 to 599")) }
}

impl fmt::Display for StatusRanges {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (low, high)) in self.0.iter().enumerate() {
            out.write_str(if index == 0 { "" } else { "," })?;
            if low == high { write!(out, "{low}")? } else { write!(out, "{low}-{high}")? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_and_single_codes() {
        let set = StatusRanges::parse("200-299, 401").unwrap();
        assert!(set.contains(200) && set.contains(299) && set.contains(401));
        assert!(!set.contains(300) && !set.contains(400));
        for bad in ["", "2xx", "299-200", "99", "100", "600", "200-", "-200", "200,,201", "+20", "200-300-400"] {
            assert!(StatusRanges::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ranges in proptest::collection::vec((200..=599_u16, 0..100_u16), 1..5)) {
            let set = StatusRanges(ranges.into_iter().map(|(low, more)| (low, (low + more).min(599))).collect());
            prop_assert_eq!(StatusRanges::parse(&set.to_string()), Ok(set));
        }
    }
}
