//! Targets: the path that routes see is the one the app will see, and a prefix is taken off both alike.

use propylon::route::target::{check_query, decode_path, decode_value, split_query, strip_prefix_raw};

/// Takes a target, and on a second line a `strip_prefix`.
pub fn check(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let target = lines.next().unwrap_or_default();
    let (raw, query) = split_query(target);
    assert!(!raw.contains(&b'?'));
    assert_eq!(query.map_or(raw.to_vec(), |query| [raw, b"?", query].concat()), target);
    if let Some(query) = query {
        let fine = query.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#');
        assert_eq!(check_query(query).is_ok(), fine, "{}", query.escape_ascii());
    }
    assert_eq!(decode_value(target), percent_decoded(target));
    let decoded = decode_path(raw).map(std::borrow::Cow::into_owned);
    assert_eq!(decoded.as_deref().ok(), reference(raw).as_deref(), "{}", raw.escape_ascii());
    match decoded {
        Ok(path) => {
            check_path(&path);
            let prefix = lines.next().and_then(|line| std::str::from_utf8(line).ok());
            if let Some(prefix) = prefix.filter(|prefix| is_prefix(prefix)) {
                check_stripped(raw, &path, prefix);
            }
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.bytes().all(|byte| matches!(byte, b' ' | b'-') || byte.is_ascii_alphanumeric()), "{said}");
        }
    }
}

fn percent_decoded(raw: &[u8]) -> Option<Vec<u8>> {
    let mut pieces = raw.split(|byte| *byte == b'%');
    let mut decoded = pieces.next().unwrap_or_default().to_vec();
    for piece in pieces {
        let digits = piece.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        decoded.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        decoded.extend_from_slice(&piece[2..]);
    }
    Some(decoded)
}

/// Rule by rule, without haste.
fn reference(raw: &[u8]) -> Option<Vec<u8>> {
    let allowed = |byte: &u8| byte.is_ascii_graphic() && !b"#\\?".contains(byte);
    if raw.first() != Some(&b'/') || !raw.iter().all(allowed) {
        return None;
    }
    let decoded = percent_decoded(raw)?;
    let segments: Vec<&[u8]> = decoded.split(|byte| *byte == b'/').collect();
    let bad = |segment: &&[u8]| [&b"."[..], b".."].contains(segment);
    if segments.iter().any(bad) || decoded.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
        return None;
    }
    let last = segments.len() - 1;
    let kept = segments.iter().enumerate().filter(|(index, segment)| *index == last || !segment.is_empty());
    Some(kept.fold(Vec::new(), |path, (_, segment)| [&path, &b"/"[..], segment].concat()))
}

/// Decoding it again after encoding changes nothing, whatever is encoded.
fn check_path(path: &[u8]) {
    let all = path.iter().skip(1).fold("/".to_owned(), |text, byte| format!("{text}%{byte:02x}"));
    assert_eq!(decode_path(all.as_bytes()).as_deref(), Ok(path));
    let some = path.iter().fold(String::new(), |text, byte| match byte {
        b'/' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => text + &char::from(*byte).to_string(),
        other => format!("{text}%{other:02X}"),
    });
    assert_eq!(decode_path(some.as_bytes()).as_deref(), Ok(path));
}

/// As the configuration accepts them.
fn is_prefix(prefix: &str) -> bool {
    let fine = prefix.split('/').skip(1).all(|segment| !matches!(segment, "" | "." | ".."));
    prefix.starts_with('/') && fine && !prefix.chars().any(|c| c.is_control() || "?#*".contains(c))
}

/// What goes on is what was matched less the prefix, and is cut out of the client's bytes.
fn check_stripped(raw: &[u8], path: &[u8], prefix: &str) {
    let behind = path.strip_prefix(prefix.as_bytes()).filter(|rest| matches!(rest.first(), None | Some(b'/')));
    let Some(rest) = strip_prefix_raw(raw, prefix) else {
        // Only where the slash behind it is an encoded one may a prefix that is there stay.
        let encoded_slash = raw.to_ascii_lowercase().windows(3).any(|window| window == b"%2f");
        return assert!(behind.is_none() || encoded_slash, "{} keeps {prefix}", raw.escape_ascii());
    };
    assert!(raw.ends_with(rest) && matches!(rest.first(), None | Some(b'/')));
    let decoded = if rest.is_empty() { Vec::new() } else { decode_path(rest).expect("a path").into_owned() };
    assert_eq!(behind, Some(&decoded[..]), "{} less {prefix}", raw.escape_ascii());
}
