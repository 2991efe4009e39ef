//! The fields of a head, in the order in which they came.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The fields of a head: one entry for each field line, also where a name comes again (RFC 9110 section 5.3).
///
/// A head has some ten of them, so looking through all costs less than to hash every name, and keeps their order. Whoever asks for
/// as many names as a message may list has to do it in one pass, with [`retain`](Self::retain).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(HeaderName, HeaderValue)>);

/// What a field can be asked for by: its name, in small letters where it is text.
pub trait Named {
    /// Whether a field of this name is meant.
    fn is(&self, name: &HeaderName) -> bool;
}

impl Named for HeaderName {
    #[inline]
    fn is(&self, name: &HeaderName) -> bool {
        self == name
    }
}

impl Named for &HeaderName {
    #[inline]
    fn is(&self, name: &HeaderName) -> bool {
        *self == name
    }
}

impl Named for &str {
    fn is(&self, name: &HeaderName) -> bool {
        name.as_str() == *self
    }
}

#[allow(clippy::needless_pass_by_value)] // A name is a constant or a reference: what is written at the caller stays short.
impl Headers {
    /// None yet, and room for so many.
    #[must_use]
    pub fn with_capacity(room: usize) -> Self {
        Self(Vec::with_capacity(room))
    }

    /// How many field lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first value of a field.
    pub fn get(&self, name: impl Named) -> Option<&HeaderValue> {
        self.0.iter().find(|(there, _)| name.is(there)).map(|(_, value)| value)
    }

    /// All values of a field, in their order.
    pub fn get_all<N: Named>(&self, name: N) -> impl Iterator<Item = &HeaderValue> + use<'_, N> {
        self.0.iter().filter(move |(there, _)| name.is(there)).map(|(_, value)| value)
    }

    pub fn contains(&self, name: impl Named) -> bool {
        self.get(name).is_some()
    }

    /// The name of each field line.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.0.iter().map(|(name, _)| name)
    }

    /// Adds a field line after all others.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.push((name, value));
    }

    /// Sets a field to this value alone: in the place of the first there is, or at the end.
    pub fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        let Some(place) = self.0.iter().position(|(there, _)| *there == name) else {
            return self.append(name, value);
        };
        let mut index = 0;
        self.0.retain(|(there, _)| {
            index += 1;
            index - 1 <= place || *there != name
        });
        if let Some(first) = self.0.get_mut(place) {
            first.1 = value;
        }
    }

    /// Takes out all lines of a field; the first value there was.
    pub fn remove(&mut self, name: impl Named) -> Option<HeaderValue> {
        let place = self.0.iter().position(|(there, _)| name.is(there))?;
        let (_, value) = self.0.remove(place);
        self.0.retain(|(there, _)| !name.is(there));
        Some(value)
    }

    /// Takes out the lines of which `keep` says no.
    pub fn retain(&mut self, mut keep: impl FnMut(&HeaderName, &HeaderValue) -> bool) {
        self.0.retain(|(name, value)| keep(name, value));
    }

    pub fn iter(&self) -> std::slice::Iter<'_, (HeaderName, HeaderValue)> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Headers {
    type Item = &'a (HeaderName, HeaderValue);
    type IntoIter = std::slice::Iter<'a, (HeaderName, HeaderValue)>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for Headers {
    type Item = (HeaderName, HeaderValue);
    type IntoIter = std::vec::IntoIter<(HeaderName, HeaderValue)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for Headers {
    fn from_iter<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(fields: I) -> Self {
        Self(fields.into_iter().collect())
    }
}

impl Extend<(HeaderName, HeaderValue)> for Headers {
    fn extend<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(&mut self, fields: I) {
        self.0.extend(fields);
    }
}

/// As the HTTP/2 library has read them: the lines of a name one after the other.
impl From<HeaderMap> for Headers {
    fn from(map: HeaderMap) -> Self {
        let mut fields = Self::with_capacity(map.len());
        let mut last = None;
        for (name, value) in map {
            // A name is given once, with its first value.
            last = name.or(last);
            if let Some(name) = &last {
                fields.append(name.clone(), value);
            }
        }
        fields
    }
}

/// As the HTTP/2 library writes them.
impl From<Headers> for HeaderMap {
    fn from(fields: Headers) -> Self {
        let mut map = Self::with_capacity(fields.len());
        for (name, value) in fields {
            map.append(name, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use http::header;
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 4] = ["etag", "x-a", "set-cookie", "x-b"];

    fn name(index: usize) -> HeaderName {
        HeaderName::from_static(NAMES[index])
    }

    #[derive(Debug, Clone)]
    enum Step {
        Append(usize, u8),
        Insert(usize, u8),
        Remove(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..NAMES.len(), any::<u8>()).prop_map(|(name, value)| Step::Append(name, value)),
            (0..NAMES.len(), any::<u8>()).prop_map(|(name, value)| Step::Insert(name, value)),
            (0..NAMES.len()).prop_map(Step::Remove),
        ];
        prop::collection::vec(step, 0..30)
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_of_the_library_would(steps in steps()) {
            let (mut mine, mut theirs) = (Headers::default(), HeaderMap::new());
            for step in steps {
                match step {
                    Step::Append(n, value) => {
                        mine.append(name(n), u32::from(value).into());
                        theirs.append(name(n), u32::from(value).into());
                    }
                    Step::Insert(n, value) => {
                        mine.insert(name(n), u32::from(value).into());
                        theirs.insert(name(n), u32::from(value).into());
                    }
                    Step::Remove(n) => prop_assert_eq!(mine.remove(name(n)), theirs.remove(name(n))),
                }
            }
            prop_assert_eq!(mine.len(), theirs.len());
            for known in NAMES {
                prop_assert_eq!(mine.get(known), theirs.get(known));
                prop_assert_eq!(mine.contains(known), theirs.contains_key(known));
                prop_assert!(mine.get_all(&HeaderName::from_static(known)).eq(theirs.get_all(known)));
            }
            prop_assert_eq!(HeaderMap::from(Headers::from(theirs.clone())), theirs.clone());
            prop_assert_eq!(HeaderMap::from(mine), theirs);
        }
    }

    #[test]
    fn lines_keep_their_order_and_one_that_is_set_its_place() {
        let mut headers = Headers::default();
        for (name, value) in [("x-a", "1"), ("etag", "2"), ("x-a", "3"), ("x-b", "4"), ("x-a", "5")] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers.insert(HeaderName::from_static("x-a"), HeaderValue::from_static("6"));
        headers.insert(header::VIA, HeaderValue::from_static("7"));
        let lines: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(lines, [("x-a", "6"), ("etag", "2"), ("x-b", "4"), ("via", "7")]);
        headers.retain(|name, _| *name != header::ETAG);
        assert_eq!(headers.len(), 3);
    }
}
