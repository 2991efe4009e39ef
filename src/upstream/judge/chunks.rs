//! The chunked coding of a response, followed without taking it apart (RFC 9112 section 7.1).

use super::Malformed;
use crate::header::grammar::{is_text_byte, is_token_byte};

/// Bytes of a size line with its extensions, and of the trailer section.
const SIZE_LINE_MAX: usize = 256;
const TRAILERS_MAX: usize = 8 * 1024;
/// No chunk is longer.
const DIGITS_MAX: usize = 15;

/// Where in the body the next byte stands.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    at: At,
    /// Of the line at hand: bytes of it, and for a size line its digits.
    length: usize,
    digits: usize,
    size: u64,
    trailers: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    Extension,
    /// The line feed of a size line.
    SizeEnd,
    Data(u64),
    DataCr,
    DataLf,
    /// The first byte of a line of the trailer section.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerEnd,
    /// The last line feed.
    LastLf,
    Done,
}

impl Chunks {
    pub fn is_done(&self) -> bool {
        self.at == At::Done
    }

    /// Follows the bytes as far as the body goes; how many that is.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut used = 0;
        while let Some(&byte) = bytes.get(used) {
            if let At::Data(left) = self.at {
                let rest = bytes.len() - used;
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest);
                used += taken;
                let left = left - taken as u64;
                self.at = if left == 0 { At::DataCr } else { At::Data(left) };
                continue;
            }
            if self.at == At::Done {
                break;
            }
            self.at = self.step(byte)?;
            used += 1;
        }
        Ok(used)
    }

    fn step(&mut self, byte: u8) -> Result<At, Malformed> {
        self.length += 1;
        match (self.at, byte) {
            (At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.digits += 1;
                if self.digits > DIGITS_MAX {
                    return Err(Malformed("invalid chunk size"));
                }
                self.size = self.size << 4 | u64::from(char::from(byte).to_digit(16).unwrap_or_default());
                Ok(At::Size)
            }
            (At::Size, b'\r') if self.digits > 0 => Ok(At::SizeEnd),
            (At::Size, b';') if self.digits > 0 => Ok(At::Extension),
            (At::Size, _) => Err(Malformed("invalid chunk size")),
            (At::Extension, _) if self.length > SIZE_LINE_MAX => Err(Malformed("chunk line too long")),
            (At::Extension, b'\r') => Ok(At::SizeEnd),
            (At::Extension, byte) if is_text_byte(byte) => Ok(At::Extension),
            (At::Extension, _) => Err(Malformed("invalid chunk extension")),
            (At::SizeEnd, b'\n') => {
                (self.length, self.digits) = (0, 0);
                let size = std::mem::take(&mut self.size);
                Ok(if size == 0 { At::TrailerStart } else { At::Data(size) })
            }
            (At::DataCr, b'\r') => Ok(At::DataLf),
            (At::DataLf, b'\n') => {
                self.length = 0;
                Ok(At::Size)
            }
            (At::DataCr | At::DataLf, _) => Err(Malformed("chunk data longer than its size")),
            (At::SizeEnd | At::TrailerEnd | At::LastLf, byte) if byte != b'\n' => {
                Err(Malformed("carriage return without line feed"))
            }
            (At::LastLf, _) => Ok(At::Done),
            (At::TrailerEnd, _) => Ok(At::TrailerStart),
            (At::TrailerStart, b'\r') => Ok(At::LastLf),
            _ => self.trailer(byte),
        }
    }

    fn trailer(&mut self, byte: u8) -> Result<At, Malformed> {
        self.trailers += 1;
        if self.trailers > TRAILERS_MAX {
            return Err(Malformed("trailers too long"));
        }
        match (self.at, byte) {
            (At::TrailerStart | At::TrailerName, byte) if is_token_byte(byte) => Ok(At::TrailerName),
            (At::TrailerName, b':') => Ok(At::TrailerValue),
            (At::TrailerValue, b'\r') => Ok(At::TrailerEnd),
            (At::TrailerValue, byte) if is_text_byte(byte) => Ok(At::TrailerValue),
            _ => Err(Malformed("invalid trailer")),
        }
    }
}
