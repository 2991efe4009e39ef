//! Where lines go: standard output, a file that is appended to, or nowhere.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;

/// How long to wait when a pipe that does not block is full.
const FULL_PIPE_PAUSE: Duration = Duration::from_millis(10);

/// What the configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// A file, created with the mode 0640 and appended to.
    File(PathBuf),
    /// Nothing is logged.
    Off,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => path.display().fmt(f),
            Self::Off => f.write_str("off"),
        }
    }
}

impl Target {
    /// Opens the target; nothing is written yet.
    ///
    /// # Errors
    /// When the file cannot be opened for appending, or is a named pipe that nobody reads; when standard output is closed.
    pub fn open(&self) -> io::Result<Sink> {
        let out: Option<Box<dyn Write + Send>> = match self {
            Self::Stdout => {
                // A descriptor of our own: the standard library's handle would buffer lines and share its lock.
                let descriptor = io::stdout().as_fd().try_clone_to_owned()?;
                Some(Box::new(File::from(descriptor)))
            }
            Self::File(path) => {
                let mut options = OpenOptions::new();
                // Non-blocking, or opening a named pipe would wait for its reader; a file does not know the flag.
                let flags = OFlags::NONBLOCK.bits().cast_signed();
                options.append(true).create(true).mode(0o640).custom_flags(flags);
                Some(Box::new(options.open(path)?))
            }
            Self::Off => None,
        };
        Ok(Sink { target: self.clone(), out, torn: false })
    }
}

/// An open target.
pub struct Sink {
    target: Target,
    out: Option<Box<dyn Write + Send>>,
    /// The last thing written is the beginning of a line whose end was lost.
    torn: bool,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("target", &self.target).field("torn", &self.torn).finish_non_exhaustive()
    }
}

/// A write that failed, and the lines it lost.
#[derive(Debug)]
pub(super) struct Loss {
    pub(super) error: io::Error,
    pub(super) lines: u64,
}

impl Sink {
    /// What it was opened from.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    #[cfg(test)]
    pub(super) fn to(out: impl Write + Send + 'static) -> Self {
        Self { target: Target::Stdout, out: Some(Box::new(out)), torn: false }
    }

    /// Writes whole lines, with one call where the target takes them at once. Blocks for as long as the target does.
    ///
    /// On an error the rest is given up. What was written of a line before is ended by a line feed as soon as writing works
    /// again, so that no two lines run together.
    pub(super) fn write(&mut self, lines: &[u8]) -> Result<(), Loss> {
        let Some(out) = &mut self.out else {
            return Ok(());
        };
        if lines.is_empty() {
            return Ok(());
        }
        if self.torn {
            write_all(out, b"\n").map_err(|(error, _)| Loss { error, lines: count(lines) })?;
            self.torn = false;
        }
        write_all(out, lines).map_err(|(error, rest)| {
            let written = lines.len().saturating_sub(rest.len());
            self.torn = lines.get(..written).is_some_and(|done| done.last().is_some_and(|last| *last != b'\n'));
            Loss { error, lines: count(rest) }
        })
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().fold(0, |count, byte| count + u64::from(*byte == b'\n'))
}

/// Writes everything, or returns the error and what was not written.
fn write_all<'a>(out: &mut dyn Write, bytes: &'a [u8]) -> Result<(), (io::Error, &'a [u8])> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(0) => return Err((ErrorKind::WriteZero.into(), rest)),
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Standard output may be a pipe that another process made non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL_PIPE_PAUSE),
            Err(error) => return Err((error, rest)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    /// Answers each write by script, then takes everything.
    struct Scripted {
        script: VecDeque<Result<usize, ErrorKind>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = match self.script.pop_front() {
                Some(answer) => answer?.min(bytes.len()),
                None => bytes.len(),
            };
            self.written.lock().extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn scripted(script: &[Result<usize, ErrorKind>]) -> (Sink, Arc<Mutex<Vec<u8>>>) {
        let written = Arc::new(Mutex::new(Vec::new()));
        let out = Scripted { script: script.iter().copied().collect(), written: Arc::clone(&written) };
        (Sink::to(out), written)
    }

    #[test]
    fn partial_and_interrupted_writes_go_on() {
        let (mut sink, written) = scripted(&[Ok(2), Err(ErrorKind::Interrupted), Ok(3), Err(ErrorKind::WouldBlock)]);
        sink.write(b"first\nsecond\n").unwrap();
        assert_eq!(*written.lock(), b"first\nsecond\n");
    }

    #[test]
    fn a_torn_line_is_ended_before_the_next_one() {
        let (mut sink, written) = scripted(&[Ok(8), Err(ErrorKind::StorageFull), Err(ErrorKind::StorageFull)]);
        let loss = sink.write(b"first\nsecond\nthird\n").unwrap_err();
        assert_eq!((loss.lines, loss.error.kind()), (2, ErrorKind::StorageFull));
        assert_eq!(sink.write(b"lost\n").unwrap_err().lines, 1);
        sink.write(b"fourth\n").unwrap();
        sink.write(b"fifth\n").unwrap();
        assert_eq!(*written.lock(), b"first\nse\nfourth\nfifth\n");
    }

    #[test]
    fn an_error_between_lines_tears_nothing() {
        let (mut sink, written) = scripted(&[Ok(6), Err(ErrorKind::BrokenPipe), Ok(0)]);
        assert_eq!(sink.write(b"first\nsecond\n").unwrap_err().lines, 1);
        assert_eq!(sink.write(b"third\n").unwrap_err().error.kind(), ErrorKind::WriteZero);
        sink.write(b"fourth\n").unwrap();
        assert_eq!(*written.lock(), b"first\nfourth\n");
    }

    #[test]
    fn a_file_is_appended_to_and_not_for_everybody() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let target = Target::File(dir.path().join("access.log"));
        target.open().unwrap().write(b"one\n").unwrap();
        target.open().unwrap().write(b"two\n").unwrap();
        let path = dir.path().join("access.log");
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
    }

    #[test]
    fn what_cannot_be_opened_is_an_error_and_not_a_wait() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Target::File(dir.path().into()).open().is_err());
        assert!(Target::File(dir.path().join("no/such")).open().is_err());
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(Target::File(pipe).open().is_err());
    }
}
