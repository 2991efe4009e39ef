//! Files that change under a running process: certificates are renewed by other programs, which tell nobody.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{fmt, fs};

use parking_lot::Mutex;

/// Something made of files that can be made anew.
pub trait FromFiles: fmt::Debug + Send + Sync {
    /// The files.
    fn files(&self) -> Vec<PathBuf>;

    /// Reads them again and goes over to what they hold. After an error everything is as it was. Blocks.
    ///
    /// # Errors
    /// One sentence for each file that cannot be used.
    fn read_again(&self) -> Result<(), String>;
}

/// What tells one state of a file from the next, without reading it; links are followed.
type Stamp = Option<(u64, (i64, i64), (i64, i64), u64)>;

/// How often files that could not be used are read again as they are: what was wrong may have been the hour, or a disk.
const AGAIN_EVERY: Duration = Duration::from_secs(60);

/// By how much the clock of file systems is behind at most.
const CLOCK_STEP: Duration = Duration::from_millis(10);

/// What was seen of the files of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen(Vec<Stamp>);

impl Seen {
    fn now(files: &[PathBuf]) -> Self {
        let stamp = |file: &PathBuf| {
            let data = fs::metadata(file).ok()?;
            Some((data.ino(), (data.mtime(), data.mtime_nsec()), (data.ctime(), data.ctime_nsec()), data.len()))
        };
        Self(files.iter().map(stamp).collect())
    }

    /// Whether one was changed since then, in any way.
    fn is_younger_than(&self, then: SystemTime) -> bool {
        let then = then.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(CLOCK_STEP);
        let then = (i64::try_from(then.as_secs()).unwrap_or(i64::MAX), i64::from(then.subsec_nanos()));
        self.0.iter().flatten().any(|(_, _, changed, _)| *changed >= then)
    }
}

/// Looks at the files of one thing from time to time.
#[derive(Debug)]
pub struct Watched {
    thing: Arc<dyn FromFiles>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What the thing was made of, or was last tried to be.
    tried: Seen,
    /// The files may have changed between that and what was seen of them then.
    doubtful: bool,
    /// What was seen at the last look.
    last: Seen,
    /// Why what the files hold cannot be used, if it cannot, and when it is tried again; the thing is made of what they held before.
    refused: Option<(String, Instant)>,
}

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    Unchanged,
    /// They may have changed while they were read first, and were read again.
    ReadAgain,
    Renewed,
    Failed(String),
}

impl Watched {
    /// Watches the files of `thing`; `began`: when they were begun to be read, to make it. One that has changed since then is read
    /// again.
    #[must_use]
    pub fn new(thing: Arc<dyn FromFiles>, began: SystemTime) -> Self {
        let last = Seen::now(&thing.files());
        let doubtful = last.is_younger_than(began);
        Self { thing, state: Mutex::new(State { tried: last.clone(), doubtful, last, refused: None }) }
    }

    /// Makes the thing anew if its files have changed, once they look the same twice: a certificate and its key are written one
    /// after the other. What failed is tried again when a file changes again, and now and then. Blocks.
    pub fn look(&self) -> Look {
        let now = Seen::now(&self.thing.files());
        let mut state = self.state.lock();
        let settled = state.last == now;
        state.last = now.clone();
        let is_new = state.tried != now;
        let is_due =
            is_new || state.doubtful || state.refused.as_ref().is_some_and(|(_, again)| *again <= Instant::now());
        if !settled || !is_due {
            return Look::Unchanged;
        }
        (state.tried, state.doubtful) = (now, false);
        match self.thing.read_again() {
            Ok(()) => {
                let was_refused = state.refused.take().is_some();
                if is_new || was_refused { Look::Renewed } else { Look::ReadAgain }
            }
            Err(problems) => {
                let said = state.refused.replace((problems.clone(), Instant::now() + AGAIN_EVERY));
                let is_known = !is_new && said.is_some_and(|(said, _)| said == problems);
                if is_known { Look::Unchanged } else { Look::Failed(problems) }
            }
        }
    }

    /// Whether the files hold what cannot be used.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.state.lock().refused.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Lines(PathBuf, Mutex<Vec<String>>);

    impl FromFiles for Lines {
        fn files(&self) -> Vec<PathBuf> {
            vec![self.0.clone()]
        }

        fn read_again(&self) -> Result<(), String> {
            let mended = self.1.lock().iter().any(|line| line.starts_with("mended"));
            let text = fs::read(&self.0).map_err(|error| error.to_string())?;
            let text = if mended { Ok("mended".to_owned()) } else { String::from_utf8(text) };
            self.1.lock().push(text.map_err(|error| error.to_string())?);
            Ok(())
        }
    }

    #[test]
    fn a_change_is_taken_over_once_it_has_settled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "one").unwrap();
        let lines = Arc::new(Lines(path.clone(), Mutex::default()));
        let watched = Watched::new(lines.clone(), SystemTime::now() + AGAIN_EVERY);
        assert_eq!(watched.look(), Look::Unchanged);
        fs::write(&path, "second").unwrap();
        assert_eq!(watched.look(), Look::Unchanged);
        assert_eq!(watched.look(), Look::Renewed);
        assert_eq!(watched.look(), Look::Unchanged);
        fs::remove_file(&path).unwrap();
        assert_eq!(watched.look(), Look::Unchanged);
        assert!(matches!(watched.look(), Look::Failed(_)));
        // Said once.
        assert_eq!(watched.look(), Look::Unchanged);
        fs::write(&path, "second").unwrap();
        watched.look();
        assert_eq!(watched.look(), Look::Renewed);
        assert_eq!(*lines.1.lock(), ["second", "second"]);
    }
    #[test]
    fn what_has_changed_while_it_was_read_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let began = SystemTime::now();
        fs::write(&path, "one").unwrap();
        let lines = Arc::new(Lines(path, Mutex::default()));
        let watched = Watched::new(lines, began);
        assert_eq!((watched.look(), watched.look()), (Look::ReadAgain, Look::Unchanged));
    }

    #[test]
    fn what_was_refused_is_tried_again_and_complained_of_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let lines = Arc::new(Lines(path.clone(), Mutex::default()));
        let watched = Watched::new(lines.clone(), SystemTime::now());
        let pass = |watched: &Watched| watched.state.lock().refused.as_mut().unwrap().1 = Instant::now();
        fs::write(&path, [0xff]).unwrap();
        assert_eq!(watched.look(), Look::Unchanged);
        assert!(matches!(watched.look(), Look::Failed(_)) && watched.is_refused());
        pass(&watched);
        assert_eq!(watched.look(), Look::Unchanged);
        assert!(watched.is_refused());
        lines.1.lock().push("mended by something else".to_owned());
        pass(&watched);
        assert_eq!(watched.look(), Look::Renewed);
        assert!(!watched.is_refused());
    }
}
