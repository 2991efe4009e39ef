//! `propylon hash-password`: what `access.basic_auth` is to hold.

use std::io::{self, BufRead, IsTerminal};

use clap::Args;

use super::Failure;
use crate::access::password;

/// Bytes of a password; a whole head has at most 16 KiB.
const PASSWORD_MAX: usize = 1024;

#[derive(Debug, Args)]
pub(super) struct HashPassword {
    /// Whose it is; the line is then `NAME:hash`, ready for a file of users.
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

impl HashPassword {
    pub(super) fn execute(&self) -> Result<String, Failure> {
        if self.name.as_ref().is_some_and(|name| name.is_empty() || name.contains([':', '\n', '\r'])) {
            return Err(Failure::bad_input("a name is not empty, has no colon and is one line"));
        }
        let password = read().map_err(|error| Failure::failed(&format!("cannot read the password: {error}")))?;
        if password.is_empty() || password.len() > PASSWORD_MAX {
            return Err(Failure::bad_input(&format!("a password has 1 to {PASSWORD_MAX} bytes")));
        }
        let hash = password::hash(password.as_bytes()).map_err(|error| Failure::failed(&error))?;
        Ok(self.name.as_ref().map_or_else(|| format!("{hash}\n"), |name| format!("{name}:{hash}\n")))
    }
}

/// From the terminal without showing it, and twice; else the first line of standard input.
fn read() -> io::Result<String> {
    let input = io::stdin();
    if !input.is_terminal() {
        let mut line = String::new();
        input.lock().read_line(&mut line)?;
        return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
    }
    let password = rpassword::prompt_password("Password: ")?;
    if rpassword::prompt_password("Again: ")? != password {
        return Err(io::Error::other("the two differ"));
    }
    Ok(password)
}
