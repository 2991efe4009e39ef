//! A body that stays on disk, and is read as it is sent.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use super::format::BLOCK;

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
