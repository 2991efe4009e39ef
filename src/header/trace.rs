//! Trace context (W3C Trace Context): which trace a request belongs to, so that what the gateway and the app say of it can be put
//! together.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use http::{HeaderName, HeaderValue};

use crate::headers::Headers;

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Bytes of a field of version 00: `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const LENGTH: usize = 55;
const SAMPLED: u8 = 1;
/// That the id is random: of level 2.
const RANDOM: u8 = 2;

/// How many of the traces are recorded, of 2^63; the same one everywhere, as it is told by the trace's id (as `TraceIdRatioBased` of
/// OpenTelemetry's SDKs does).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u64);

impl Share {
    /// Of a share in parts of a million, at most all of them.
    #[must_use]
    pub fn of_millionths(millionths: u32) -> Self {
        let all = 1_u128 << 63;
        Self(u64::try_from(all * u128::from(millionths.min(1_000_000)) / 1_000_000).unwrap_or(1 << 63))
    }

    /// The same for an id that somebody may have chosen: nobody outside can tell which are recorded.
    fn has_of_stranger(self, trace: [u8; 16]) -> bool {
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        KEY.hash_one(trace) >> 1 < self.0
    }

    fn has(self, trace: [u8; 16]) -> bool {
        trace.last_chunk().is_some_and(|last| u64::from_be_bytes(*last) >> 1 < self.0)
    }
}

/// A request's place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    pub trace: [u8; 16],
    /// The step before: the client's, or our own where the trace begins here.
    pub span: [u8; 8],
    flags: u8,
    /// Whether the client has said so.
    pub received: bool,
}

impl TraceContext {
    /// The trace a client names, or a new one. Whether it is recorded a trusted peer decides itself; of others no more are recorded than
    /// `share` says, whatever they ask for.
    #[must_use]
    pub fn of(headers: &Headers, peer_trusted: bool, share: Share) -> Self {
        let mut fields = headers.get_all(TRACEPARENT);
        let received = match (fields.next(), fields.next()) {
            (Some(only), None) => Self::read(only.as_bytes()),
            _ => None,
        };
        match received {
            Some(context) if peer_trusted => context,
            Some(context) if share.has_of_stranger(context.trace) => context,
            Some(context) => Self { flags: context.flags & !SAMPLED, ..context },
            None => Self::begin(share),
        }
    }

    fn begin(share: Share) -> Self {
        let trace = rand::random();
        Self { trace, span: new_span(), flags: u8::from(share.has(trace)), received: false }
    }

    /// Section 3.2 of the recommendation. Of a version that is not known yet the four parts that are known are read.
    fn read(field: &[u8]) -> Option<Self> {
        let (known, more) = field.split_at_checked(LENGTH)?;
        let mut parts = known.split(|byte| *byte == b'-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let [version] = digits::<1>(version)?;
        let ends_well = if version == 0 { more.is_empty() } else { matches!(more, [] | [b'-', ..]) };
        let (trace, span, [flags]) = (digits::<16>(trace)?, digits::<8>(span)?, digits::<1>(flags)?);
        let is_valid = version != 0xff && ends_well && trace != [0; 16] && span != [0; 8];
        // What is not known is not passed on (section 3.2.2.5); of later versions the first flag alone is known.
        let flags = flags & if version == 0 { SAMPLED | RANDOM } else { SAMPLED };
        is_valid.then_some(Self { trace, span, flags, received: true })
    }

    /// Whether the steps are recorded.
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Another step of the same trace.
    #[must_use]
    pub fn at(self, span: [u8; 8]) -> Self {
        Self { span, ..self }
    }

    /// As it goes on.
    #[must_use]
    pub fn field(self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let (trace, rest) = text.split_at_mut(35);
        let (span, flags) = rest.split_at_mut(18);
        // The places are as long as what is written there.
        let _ = hex::encode_to_slice(self.trace, trace.get_mut(3..).unwrap_or_default());
        let _ = hex::encode_to_slice(self.span, span.get_mut(1..17).unwrap_or_default());
        let _ = hex::encode_to_slice([self.flags], flags);
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
    }

    /// The id of the trace: 32 hexadecimal digits.
    #[must_use]
    pub fn id(self) -> [u8; 32] {
        let mut text = [b'0'; 32];
        let _ = hex::encode_to_slice(self.trace, &mut text);
        text
    }
}

/// The id of a step. Nobody else has the same: all zero it is as likely as any that is taken already.
#[must_use]
pub fn new_span() -> [u8; 8] {
    rand::random()
}

/// Hexadecimal digits in lower case.
fn digits<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let is_lower = !text.iter().any(u8::is_ascii_uppercase);
    (is_lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: u32 = 1_000_000;
    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn of(fields: &[&str], peer_trusted: bool, millionths: u32) -> TraceContext {
        let mut headers = Headers::default();
        for field in fields {
            headers.append(TRACEPARENT, HeaderValue::from_str(field).unwrap());
        }
        TraceContext::of(&headers, peer_trusted, Share::of_millionths(millionths))
    }

    #[test]
    fn what_a_client_says_is_kept() {
        let context = of(&[GIVEN], false, ALL);
        assert!(context.received && context.is_sampled());
        assert_eq!(context.field(), GIVEN);
        assert_eq!(&context.id(), b"4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.at([1; 8]).field(), GIVEN.replace("00f067aa0ba902b7", "0101010101010101").as_str());
        let later = GIVEN.replacen("00", "cc", 1) + "-what-the-future-holds";
        assert_eq!(of(&[&later], false, ALL), context);
        assert_eq!(of(&[&GIVEN.replace("-01", "-00")], true, ALL).field(), GIVEN.replace("-01", "-00").as_str());
        assert_eq!(of(&[&GIVEN.replace("-01", "-03")], false, ALL).field(), GIVEN.replace("-01", "-03").as_str());
    }

    #[test]
    fn what_is_none_begins_anew() {
        for bad in [
            "",
            "00",
            &GIVEN.to_uppercase(),
            &GIVEN[..54],
            &format!("{GIVEN}0"),
            &format!("{GIVEN}-x"),
            &GIVEN.replacen("00", "ff", 1),
            &format!("{}x", GIVEN.replacen("00", "01", 1)),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
        ] {
            let context = of(&[bad], true, ALL);
            assert!(!context.received && context.is_sampled(), "{bad}");
            assert_eq!(
                TraceContext::read(context.field().as_bytes()),
                Some(TraceContext { received: true, ..context })
            );
        }
        assert!(!of(&[GIVEN, GIVEN], true, ALL).received);
        assert!(of(&[], true, ALL).trace != of(&[], true, ALL).trace);
    }

    #[test]
    fn how_many_are_recorded() {
        let recorded = |fields: &[&str], trusted, share| of(fields, trusted, share).is_sampled();
        assert!(!recorded(&[], true, 0) && recorded(&[], false, ALL));
        // A trusted peer decides, nobody else asks for more.
        assert!(recorded(&[GIVEN], true, 0) && !recorded(&[GIVEN], false, 0));
        assert!(!recorded(&[&GIVEN.replace("-01", "-00")], false, ALL));
        assert_eq!(of(&[&GIVEN.replace("-01", "-ff")], true, ALL).field(), GIVEN.replace("-01", "-03").as_str());
        // Nor does it help to choose an id that is always among them.
        let chosen = |number: u64| format!("00-0000000000000000{number:016x}-00f067aa0ba902b7-01");
        let low = (1..10_000).filter(|number| recorded(&[&chosen(*number)], false, 100_000)).count();
        assert!((800..1200).contains(&low), "{low} of 10,000 at a tenth");
        let some = (0..10_000).filter(|_| recorded(&[], true, 100_000)).count();
        assert!((800..1200).contains(&some), "{some} of 10,000 at a tenth");
    }

    proptest! {
        #[test]
        fn whatever_comes_what_goes_on_is_valid(field in "[0-9a-f-]{50,60}|[ -~]{0,70}", trusted: bool) {
            let context = of(&[&field], trusted, ALL);
            prop_assert_eq!(TraceContext::read(context.field().as_bytes()).map(|it| it.trace), Some(context.trace));
        }
    }
}
