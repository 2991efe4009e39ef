//! One kept answer as a file. What is torn, foreign or of another version is told from what is whole by sums over all of it.
//!
//! ```text
//! magic 8 | boot 8 | length of head 4 | sums 4 | length of body 8 | head | a sum for each block of the body | sum of all before | body
//! ```
//!
//! Numbers are little-endian, sums are CRC-32. `boot` is the process that wrote it: purges are numbered by each for itself.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

use crate::cache::entry::{Entry, Head};
use crate::cache::policy::Terms;
use crate::headers::Headers;

const MAGIC: [u8; 8] = *b"PPLNKPT1";
/// What is at the beginning of every file, in bytes.
pub const FIXED: usize = 32;
/// Bytes of a body that have a sum of their own, and are read at once.
pub const BLOCK: usize = 256 * 1024;
/// Bytes of a head; no request line and fields that the gateway takes make more.
const HEAD_MOST: usize = 4 << 20;
/// Fields of a kept answer: more than an app can say and a gateway add.
const FIELDS_MOST: usize = 1000;
const NONE: u64 = u64::MAX;

/// The beginning of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixed {
    pub boot: u64,
    head: usize,
    sums: usize,
    pub body: u64,
}

/// What a file is.
#[derive(Debug)]
pub enum Record {
    Entry(Box<Head>, Option<u64>),
    /// Answers under this key depend on these request fields, and are in files under keys with this number in them.
    Varies {
        primary: Box<[u8]>,
        names: Box<[HeaderName]>,
        number: u64,
    },
}

impl Fixed {
    /// Reads it; none where it is of nothing that this version has written.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        if reader.take(8)? != MAGIC {
            return None;
        }
        let boot = reader.u64()?;
        let (head, sums, body) = (reader.u32()? as usize, reader.u32()? as usize, reader.u64()?);
        let blocks = usize::try_from(body.div_ceil(BLOCK as u64)).ok()?;
        (head <= HEAD_MOST && sums == blocks).then_some(Self { boot, head, sums, body })
    }

    /// Bytes between it and the body.
    #[must_use]
    pub fn middle(&self) -> usize {
        self.head + self.sums * 4 + 4
    }

    /// Bytes of the whole file; none where no file is so long.
    #[must_use]
    pub fn whole(&self) -> Option<u64> {
        self.body.checked_add((FIXED + self.middle()) as u64)
    }
}

/// The bytes before a body, which is in `body`.
#[must_use]
pub fn front(record: &Record, body: &Bytes, boot: u64) -> Vec<u8> {
    let mut head = Vec::with_capacity(1024);
    match record {
        Record::Entry(entry, stale_from) => write_entry(entry, *stale_from, &mut head),
        Record::Varies { primary, names, number } => {
            head.push(2);
            put(&mut head, primary);
            put_names(&mut head, names);
            head.extend_from_slice(&number.to_le_bytes());
        }
    }
    let sums: Vec<u32> = body.chunks(BLOCK).map(crc32fast::hash).collect();
    let mut front = Vec::with_capacity(FIXED + head.len() + sums.len() * 4 + 4);
    front.extend_from_slice(&MAGIC);
    front.extend_from_slice(&boot.to_le_bytes());
    front.extend_from_slice(&small(head.len()).to_le_bytes());
    front.extend_from_slice(&small(sums.len()).to_le_bytes());
    front.extend_from_slice(&(body.len() as u64).to_le_bytes());
    front.extend_from_slice(&head);
    sums.iter().for_each(|sum| front.extend_from_slice(&sum.to_le_bytes()));
    let sum = crc32fast::hash(&front);
    front.extend_from_slice(&sum.to_le_bytes());
    front
}

/// Reads what is between the beginning and the body: the record, and the sums of the body's blocks. None where it is torn.
#[must_use]
pub fn read_middle(fixed_bytes: &[u8], fixed: &Fixed, middle: &[u8]) -> Option<(Record, Box<[u32]>)> {
    let (summed, sum) = middle.split_at_checked(middle.len().checked_sub(4)?)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(fixed_bytes);
    hasher.update(summed);
    if u32::from_le_bytes(sum.try_into().ok()?) != hasher.finalize() {
        return None;
    }
    let (head, sums) = summed.split_at_checked(fixed.head)?;
    let sums: Box<[u32]> = sums.chunks_exact(4).filter_map(|sum| sum.try_into().ok().map(u32::from_le_bytes)).collect();
    Some((read_record(head)?, sums)).filter(|(_, sums)| sums.len() == fixed.sums)
}

/// What a file says of an entry.
#[must_use]
pub fn record_of(entry: &Entry) -> Record {
    let head = Head {
        primary: entry.primary.clone(),
        status: entry.status,
        headers: entry.headers.clone(),
        terms: entry.terms,
        varies: entry.varies.clone(),
        variant: entry.variant.clone(),
        asked_after: entry.checked(),
    };
    Record::Entry(Box::new(head), entry.stale_from())
}

fn write_entry(entry: &Head, stale_from: Option<u64>, head: &mut Vec<u8>) {
    head.push(1);
    put(head, &entry.primary);
    let terms = &entry.terms;
    let times = [
        terms.came,
        terms.initial_age,
        terms.fresh_until,
        terms.stale_while_revalidate,
        terms.stale_if_error,
        entry.asked_after,
        stale_from.unwrap_or(NONE),
    ];
    times.iter().for_each(|time| head.extend_from_slice(&time.to_le_bytes()));
    head.push(u8::from(terms.may_be_stale) | u8::from(terms.no_cache) << 1 | u8::from(terms.for_authorized) << 2);
    head.extend_from_slice(&entry.status.as_u16().to_le_bytes());
    put_names(head, &entry.varies);
    put(head, &entry.variant);
    head.extend_from_slice(&small(entry.headers.len()).to_le_bytes());
    for (name, value) in &entry.headers {
        put(head, name.as_str().as_bytes());
        put(head, value.as_bytes());
    }
}

fn read_record(head: &[u8]) -> Option<Record> {
    let mut reader = Reader(head);
    let record = match reader.u8()? {
        1 => read_entry(&mut reader)?,
        2 => {
            let primary = reader.piece()?.into();
            Record::Varies { primary, names: reader.names()?, number: reader.u64()? }
        }
        _ => return None,
    };
    reader.0.is_empty().then_some(record)
}

fn read_entry(reader: &mut Reader<'_>) -> Option<Record> {
    let primary = reader.piece()?.into();
    let mut next = || reader.u64();
    let (came, initial_age, fresh_until) = (next()?, next()?, next()?);
    let (stale_while_revalidate, stale_if_error, asked_after, stale_from) = (next()?, next()?, next()?, next()?);
    let flags = reader.u8()?;
    let terms = Terms {
        came,
        initial_age,
        fresh_until,
        stale_while_revalidate,
        stale_if_error,
        may_be_stale: flags & 1 != 0,
        no_cache: flags & 2 != 0,
        for_authorized: flags & 4 != 0,
    };
    let status = StatusCode::from_u16(reader.u16()?).ok()?;
    let (varies, variant) = (reader.names()?, reader.piece()?.into());
    let count = Some(reader.u32()? as usize).filter(|count| *count <= FIELDS_MOST)?;
    let mut headers = Headers::with_capacity(count + 4);
    for _ in 0..count {
        let name = HeaderName::from_bytes(reader.piece()?).ok()?;
        headers.append(name, HeaderValue::from_bytes(reader.piece()?).ok()?);
    }
    let head = Head { primary, status, headers, terms, varies, variant, asked_after };
    Some(Record::Entry(Box::new(head), Some(stale_from).filter(|from| *from != NONE)))
}

fn put(out: &mut Vec<u8>, piece: &[u8]) {
    out.extend_from_slice(&small(piece.len()).to_le_bytes());
    out.extend_from_slice(piece);
}

fn put_names(out: &mut Vec<u8>, names: &[HeaderName]) {
    out.extend_from_slice(&small(names.len()).to_le_bytes());
    names.iter().for_each(|name| put(out, name.as_str().as_bytes()));
}

/// Nothing that is written has more than 32 bits of it.
fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Takes a text of bytes apart, never more than there is.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn piece(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    fn names(&mut self) -> Option<Box<[HeaderName]>> {
        let count = self.u32()?;
        (0..count).map(|_| HeaderName::from_bytes(self.piece()?).ok()).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(value: &[u8]) -> Head {
        let mut headers = Headers::default();
        headers.append(HeaderName::from_static("x-one"), HeaderValue::from_bytes(value).unwrap());
        headers.append(HeaderName::from_static("x-one"), HeaderValue::from_static("2"));
        let terms = Terms {
            came: 1,
            initial_age: 2,
            fresh_until: 3,
            stale_while_revalidate: 4,
            stale_if_error: 5,
            may_be_stale: true,
            no_cache: false,
            for_authorized: true,
        };
        Head {
            primary: b"https\na\n/\na".as_slice().into(),
            status: StatusCode::NOT_FOUND,
            headers,
            terms,
            varies: [http::header::ACCEPT].into(),
            variant: b"\n=x".as_slice().into(),
            asked_after: 7,
        }
    }

    fn read(front: &[u8]) -> Option<(Record, Box<[u32]>)> {
        let (fixed_bytes, rest) = front.split_at_checked(FIXED)?;
        let fixed = Fixed::read(fixed_bytes)?;
        read_middle(fixed_bytes, &fixed, rest.get(..fixed.middle())?)
    }

    #[test]
    fn a_record_with_more_fields_than_an_answer_can_have_is_none() {
        let with = |lines: usize| {
            let mut head = head(b"1");
            let line = (HeaderName::from_static("x-one"), HeaderValue::from_static("1"));
            head.headers = std::iter::repeat_n(line, lines).collect();
            read(&front(&Record::Entry(Box::new(head), None), &Bytes::new(), 1))
        };
        assert!(with(FIELDS_MOST).is_some() && with(FIELDS_MOST + 1).is_none());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let body = Bytes::from(vec![7; BLOCK + 1]);
        let front = front(&Record::Entry(Box::new(head(b"1")), Some(9)), &body, 42);
        let (record, sums) = read(&front).unwrap();
        assert_eq!(sums.len(), 2);
        assert_eq!(Fixed::read(&front).unwrap().boot, 42);
        let Record::Entry(read, stale_from) = record else { panic!("an entry") };
        assert_eq!(format!("{read:?}"), format!("{:?}", Box::new(head(b"1"))));
        assert_eq!(stale_from, Some(9));
        let varies =
            Record::Varies { primary: b"k".as_slice().into(), names: [http::header::ACCEPT].into(), number: 3 };
        let (read, _) = super::tests::read(&super::front(&varies, &Bytes::new(), 1)).unwrap();
        assert_eq!(format!("{read:?}"), format!("{varies:?}"));
    }

    proptest! {
        #[test]
        fn one_wrong_byte_is_found(value in "[a-z]{1,20}", at in any::<prop::sample::Index>(), flip in 1_u8..) {
            let mut front = front(&Record::Entry(Box::new(head(value.as_bytes())), None), &Bytes::from_static(b"x"), 1);
            let at = at.index(front.len());
            front[at] ^= flip;
            prop_assert!(read(&front).is_none());
        }

        #[test]
        fn what_is_cut_is_found(value in "[a-z]{1,20}", at in any::<prop::sample::Index>()) {
            let front = front(&Record::Entry(Box::new(head(value.as_bytes())), None), &Bytes::from_static(b"x"), 1);
            prop_assert!(read(&front[..at.index(front.len())]).is_none());
        }

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
            let _ = read_record(&bytes);
        }
    }
}
