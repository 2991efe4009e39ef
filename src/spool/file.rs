//! Temporary files that nobody else can open and that are gone when the process is, however it ends.
//!
//! Where the filesystem can, a file is made without a name (`O_TMPFILE`). Elsewhere it has a random name for the moment
//! between two system calls. Everything here blocks.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Another name is tried this often when one is taken.
const NAME_TRIES: usize = 16;

/// Makes a file in `dir`, writes a byte, reads it again and removes the file: what serving will need of the directory.
/// Blocks.
///
/// # Errors
/// What the system says: the directory is not there, is no directory, may not be written, or is full.
pub fn check_dir(dir: &Path) -> io::Result<()> {
    let mut file = create(dir)?;
    file.write_all(b"x")?;
    file.rewind()?;
    file.read_exact(&mut [0])
}

/// Makes a file in `dir` that has no name, for reading and writing, mode 0600. Blocks.
pub(super) fn create(dir: &Path) -> io::Result<File> {
    // Without EXCL, /proc would offer a way to give the file a name again.
    let flags = OFlags::TMPFILE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        // The first is what the manual says of a filesystem without it; the others came from older kernels.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => create_named(dir),
        Err(error) => Err(error.into()),
    }
}

/// Makes a file with a name that is taken away at once.
fn create_named(dir: &Path) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::RDWR | OFlags::CLOEXEC;
    for _ in 0..NAME_TRIES {
        let name = dir.join(format!(".propylon-{:016x}", RandomState::new().hash_one(std::process::id())));
        match rustix::fs::open(&name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => {
                rustix::fs::unlink(&name)?;
                return Ok(file.into());
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::EXIST.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn entries(dir: &Path) -> usize {
        dir.read_dir().unwrap().count()
    }

    #[test]
    fn files_have_no_name_and_one_reader() {
        let dir = tempfile::tempdir().unwrap();
        for file in [create(dir.path()).unwrap(), create_named(dir.path()).unwrap()] {
            let data = file.metadata().unwrap();
            assert_eq!((data.nlink(), data.mode() & 0o777, data.len()), (0, 0o600, 0));
        }
        assert_eq!(entries(dir.path()), 0);
    }

    #[test]
    fn a_directory_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        check_dir(dir.path()).unwrap();
        assert_eq!(entries(dir.path()), 0);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(check_dir(&file).unwrap_err().kind(), io::ErrorKind::NotADirectory);
        assert_eq!(check_dir(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        check_dir(Path::new("/proc")).unwrap_err();
    }
}
