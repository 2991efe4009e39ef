//! Security fields, with nothing left to parse.

use http::{HeaderName, HeaderValue};

/// What answers say to protect whoever reads them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecurityHeaders {
    /// Over HTTPS alone.
    pub hsts: Option<Hsts>,
    pub csp: Option<Csp>,
    pub fields: Vec<SecurityField>,
    /// Taken off what the app says.
    pub remove: Vec<HeaderName>,
    /// Whether cookies get `Secure` and `SameSite` where they lack them.
    pub harden_cookies: bool,
}

/// One field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityField {
    pub name: HeaderName,
    pub value: HeaderValue,
    /// Whether it goes before the app's own.
    pub overrides: bool,
}

/// `Strict-Transport-Security`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hsts {
    /// Seconds.
    pub max_age: u64,
    /// When it begins to grow to that, in seconds since 1970.
    pub ramp_from: Option<u64>,
    /// What stands behind the time, with its semicolons.
    pub directives: Box<str>,
    /// All of it once the ramp is over, or without one.
    pub value: HeaderValue,
    pub overrides: bool,
}

/// `Content-Security-Policy`, or the form of it that only reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Csp {
    Fixed(SecurityField),
    /// With a nonce between each two of the parts.
    Nonce {
        name: HeaderName,
        parts: Vec<Box<str>>,
        overrides: bool,
    },
}

impl Csp {
    /// Whether it goes before the app's own.
    #[must_use]
    pub fn overrides(&self) -> bool {
        match self {
            Self::Fixed(field) => field.overrides,
            Self::Nonce { overrides, .. } => *overrides,
        }
    }

    /// Which of the two it is.
    #[must_use]
    pub fn name(&self) -> &HeaderName {
        match self {
            Self::Fixed(field) => &field.name,
            Self::Nonce { name, .. } => name,
        }
    }
}

impl SecurityHeaders {
    /// Whether each request has a nonce.
    #[must_use]
    pub fn has_nonce(&self) -> bool {
        matches!(self.csp, Some(Csp::Nonce { .. }))
    }
}

impl Hsts {
    /// Seconds that are said at a time, in seconds since 1970: never more than it has been kept to.
    #[must_use]
    pub fn max_age_at(&self, now: u64) -> u64 {
        const FIRST: u64 = 300;
        match self.ramp_from {
            // In whole hours beyond the first: it is the same for a while.
            Some(from) => {
                let kept = now.saturating_sub(from);
                let said = if kept < 3600 { FIRST } else { kept - kept % 3600 };
                said.min(self.max_age)
            }
            None => self.max_age,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_says_more_than_it_has_been_kept_to() {
        let value = HeaderValue::from_static("max-age=86400");
        let hsts = |ramp_from| Hsts {
            max_age: 86_400,
            ramp_from,
            directives: "".into(),
            value: value.clone(),
            overrides: false,
        };
        for (now, expected) in [(0, 300), (1000, 300), (4599, 300), (4600, 3600), (8300, 7200), (1_000_000, 86_400)] {
            assert_eq!(hsts(Some(1000)).max_age_at(now), expected, "{now}");
        }
        assert_eq!(hsts(None).max_age_at(0), 86_400);
        assert_eq!(Hsts { max_age: 60, ..hsts(Some(0)) }.max_age_at(5), 60);
    }
}
