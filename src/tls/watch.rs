//! Files that change under a running process: certificates are renewed by other programs, which tell nobody.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
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
type Stamp = Option<(u64, i64, i64, u64)>;

/// What was seen of the files of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen(Vec<Stamp>);

impl Seen {
    fn now(files: &[PathBuf]) -> Self {
        let stamp = |file: &PathBuf| {
            let data = fs::metadata(file).ok()?;
            Some((data.ino(), data.mtime(), data.mtime_nsec(), data.len()))
        };
        Self(files.iter().map(stamp).collect())
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
    /// What was seen at the last look.
    last: Seen,
    /// What the files hold cannot be used; the thing is made of what they held before.
    refused: bool,
}

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    Unchanged,
    Renewed,
    Failed(String),
}

impl Watched {
    /// Watches the files of `thing`, which was just made of them.
    #[must_use]
    pub fn new(thing: Arc<dyn FromFiles>) -> Self {
        let seen = Seen::now(&thing.files());
        Self { thing, state: Mutex::new(State { tried: seen.clone(), last: seen, refused: false }) }
    }

    /// Makes the thing anew if its files have changed, once they look the same twice: a certificate and its key are written one
    /// after the other. What failed is tried again when a file changes again. Blocks.
    pub fn look(&self) -> Look {
        let now = Seen::now(&self.thing.files());
        let mut state = self.state.lock();
        let settled = state.last == now;
        state.last = now.clone();
        if !settled || state.tried == now {
            return Look::Unchanged;
        }
        state.tried = now;
        let read = self.thing.read_again();
        state.refused = read.is_err();
        match read {
            Ok(()) => Look::Renewed,
            Err(problems) => Look::Failed(problems),
        }
    }

    /// Whether the files hold what cannot be used.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.state.lock().refused
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
            let text = fs::read_to_string(&self.0).map_err(|error| error.to_string())?;
            self.1.lock().push(text);
            Ok(())
        }
    }

    #[test]
    fn a_change_is_taken_over_once_it_has_settled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "one").unwrap();
        let lines = Arc::new(Lines(path.clone(), Mutex::default()));
        let watched = Watched::new(lines.clone());
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
}
