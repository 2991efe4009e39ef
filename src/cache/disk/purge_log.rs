//! Purges by prefix and tag, remembered until no file that they mean is left: over a restart as well.
//!
//! Each is remembered with the process it was told and the number it had there, so that what was asked for after it is told
//! from what was asked for before.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::cache::purge::What;

const NAME: &str = "purges";
/// One record: its kind, its time, and how long what follows is.
const FRONT: usize = 1 + 16 + 4;
/// No purge that the control socket takes has more.
const LONGEST: usize = 1 << 16;

pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join(NAME)
}

/// When something was purged or asked for: by which process, and after how many purges there.
pub(super) type Time = (u64, u64);

/// Adds purges, and waits until they are on the platter. Blocks.
pub(super) fn append(folder: &Path, (boot, number): Time, purged: &[What]) -> io::Result<()> {
    let mut bytes = Vec::new();
    for what in purged {
        let (kind, text) = match what {
            What::Key(text) => (b'k', text),
            What::Prefix(text) => (b'p', text),
            What::Tag(text) => (b't', text),
        };
        bytes.push(kind);
        bytes.extend_from_slice(&boot.to_le_bytes());
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(text);
    }
    let mut file = OpenOptions::new().create(true).append(true).open(path(folder))?;
    file.write_all(&bytes)?;
    file.sync_data()
}

/// What is remembered. Blocks.
pub(super) fn read(folder: &Path) -> io::Result<Vec<(Time, What)>> {
    let mut bytes = Vec::new();
    match File::open(path(folder)) {
        Ok(mut file) => file.read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut rest = bytes.as_slice();
    let mut purged = Vec::new();
    while let Some((front, behind)) = rest.split_at_checked(FRONT) {
        let (kind, rest_of_front) = front.split_at(1);
        let (time, length) = rest_of_front.split_at(16);
        let (boot, number) = time.split_at(8);
        let word = |bytes: &[u8]| bytes.try_into().map_or(u64::MAX, u64::from_le_bytes);
        let length = length.try_into().map_or(u32::MAX, u32::from_le_bytes) as usize;
        let text = behind.get(..length).filter(|_| length <= LONGEST);
        let what = match (kind, text) {
            (b"k", Some(text)) => What::Key(text.into()),
            (b"p", Some(text)) => What::Prefix(text.into()),
            (b"t", Some(text)) => What::Tag(text.into()),
            // Torn, or nothing of ours: what it meant is not known, so all of it is meant.
            _ => return Ok(all()),
        };
        purged.push(((word(boot), word(number)), what));
        rest = behind.get(length..).unwrap_or_default();
    }
    // The last one was being written when the machine stopped: whoever asked for it was not told that it is done.
    Ok(if rest.is_empty() { purged } else { all() })
}

fn all() -> Vec<(Time, What)> {
    vec![((u64::MAX, u64::MAX), What::Prefix(Box::default()))]
}

/// Its length now, in bytes.
pub(super) fn length(folder: &Path) -> u64 {
    path(folder).metadata().map_or(0, |metadata| metadata.len())
}

/// Forgets the first `bytes` of it. Blocks.
pub(super) fn forget(folder: &Path, bytes: u64) -> io::Result<()> {
    let mut all = Vec::new();
    File::open(path(folder))?.read_to_end(&mut all)?;
    let kept = all.get(usize::try_from(bytes).unwrap_or(usize::MAX)..).unwrap_or_default();
    let aside = folder.join("purges.new");
    let mut file = File::create(&aside)?;
    file.write_all(kept)?;
    file.sync_data()?;
    std::fs::rename(aside, path(folder))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_read_and_what_is_torn_means_all() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), []);
        let (one, two) = (What::Tag(b"t".as_slice().into()), What::Prefix(b"http\na\n/".as_slice().into()));
        append(dir.path(), (5, 1), std::slice::from_ref(&one)).unwrap();
        let first = length(dir.path());
        append(dir.path(), (5, 2), std::slice::from_ref(&two)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), [((5, 1), one), ((5, 2), two.clone())]);
        forget(dir.path(), first).unwrap();
        assert_eq!(read(dir.path()).unwrap(), [((5, 2), two)]);
        let whole = std::fs::read(path(dir.path())).unwrap();
        for cut in 1..whole.len() {
            std::fs::write(path(dir.path()), whole.get(..cut).unwrap()).unwrap();
            assert_eq!(read(dir.path()).unwrap(), all(), "{cut}");
        }
    }
}
