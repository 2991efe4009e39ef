//! A body that stays on disk, and is read as it is sent.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use super::format::BLOCK;

/// Bodies that are being read, by the number of their file: all who read one share what holds it open, so that many requests for a few
/// files hold a few files open.
#[derive(Debug, Default)]
pub(super) struct OpenBodies(Mutex<HashMap<u64, Weak<FileBody>>>);

impl OpenBodies {
    /// The body in this file. While somebody holds it open no other file has its number.
    pub(super) fn share(&self, inode: u64, body: FileBody) -> Arc<FileBody> {
        let mut open = self.0.lock();
        if let Some(there) = open.get(&inode).and_then(Weak::upgrade) {
            return there;
        }
        if open.len() == open.capacity() {
            open.retain(|_, body| body.strong_count() > 0);
        }
        let body = Arc::new(body);
        open.insert(inode, Arc::downgrade(&body));
        body
    }

    /// How many files are open.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.0.lock().values().filter(|body| body.strong_count() > 0).count()
    }
}

/// Where it is, and the sums of its blocks. The file may be taken out of the directory meanwhile: it is held open.
#[derive(Debug)]
pub struct FileBody {
    file: File,
    at: u64,
    length: u64,
    sums: Box<[u32]>,
}

impl FileBody {
    pub(super) fn new(file: File, at: u64, length: u64, sums: Box<[u32]>) -> Self {
        Self { file, at, length, sums }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Bytes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.length).unwrap_or(usize::MAX)
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn is_whole(&self, bytes: &[u8]) -> bool {
        bytes.chunks(BLOCK).map(crc32fast::hash).eq(self.sums.iter().copied())
    }

    /// Reads all of it. Blocks.
    ///
    /// # Errors
    /// The disk fails, or it is not what was written.
    pub fn read_all(&self) -> io::Result<Bytes> {
        let mut whole = vec![0; self.len()];
        self.file.read_exact_at(&mut whole, self.at)?;
        if self.is_whole(&whole) {
            Ok(Bytes::from(whole))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "it is not what was written"))
        }
    }

    /// Reads the block that `offset` lies in, from there to its end. Blocks.
    ///
    /// # Errors
    /// The disk fails, or the block is not what was written.
    pub fn read_from(&self, offset: usize) -> io::Result<Bytes> {
        let number = offset / BLOCK;
        let begin = number * BLOCK;
        let mut block = vec![0; BLOCK.min(self.len().saturating_sub(begin))];
        self.file.read_exact_at(&mut block, self.at + begin as u64)?;
        if self.sums.get(number) != Some(&crc32fast::hash(&block)) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a block is not what was written"));
        }
        Ok(Bytes::from(block).slice(offset - begin..))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn who_reads_the_same_file_holds_it_open_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let open = || {
            let file = File::open(&path).unwrap();
            (file.metadata().unwrap().ino(), FileBody::new(file, 0, 3, [crc32fast::hash(b"one")].into()))
        };
        std::fs::write(&path, "one").unwrap();
        let bodies = OpenBodies::default();
        let share = || {
            let (inode, body) = open();
            bodies.share(inode, body)
        };
        let (first, second) = (share(), share());
        assert!(Arc::ptr_eq(&first, &second));
        // What has its name next is another.
        std::fs::write(dir.path().join("b"), "two").unwrap();
        std::fs::rename(dir.path().join("b"), &path).unwrap();
        let third = share();
        assert!(!Arc::ptr_eq(&first, &third));
        assert_eq!((first.read_all().unwrap(), bodies.count()), (Bytes::from_static(b"one"), 2));
        drop((first, second, third));
        assert_eq!(bodies.count(), 0);
        for number in 0..1000 {
            bodies.share(number, open().1);
        }
        assert!(bodies.0.lock().capacity() < 100, "those that are closed are forgotten");
    }
}
