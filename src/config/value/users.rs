//! Names and passwords as htpasswd files have them: `name:hash`, a line each.

use std::collections::BTreeSet;

use argon2::Params;
use argon2::password_hash::PasswordHash as Phc;

use super::super::model::{PasswordHash, Users};
use super::super::walk::{Reject, Text};

/// Checking takes twice as long with each; 2^16 rounds take some seconds.
const BCRYPT_COST_MAX: u32 = 16;
/// KiB that one check may take.
const ARGON2_MEMORY_MAX: u32 = 1 << 20;
const ARGON2_PASSES_MAX: u32 = 16;
const WAY_OUT: &str = "`propylon hash-password` and `htpasswd -B` write them";

impl Text for Users {
    const KIND: &'static str = "lines of name:hash";
    const EXPECTED: &'static str = "lines of `name:hash`, with Argon2 or bcrypt";
    const IS_SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, Reject> {
        let mut users = Vec::new();
        let mut names = BTreeSet::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |why: &str| Reject::because(format!("line {}: {why}", number + 1));
            let (name, hash) = line.split_once(':').ok_or_else(|| wrong("no colon after the name"))?;
            if name.is_empty() || name.chars().any(char::is_control) {
                return Err(wrong("the name is empty or has control characters"));
            }
            if !names.insert(name) {
                return Err(wrong("the name is there before"));
            }
            users.push((name.to_owned(), hash_of(hash).map_err(|why| wrong(&why))?));
        }
        if users.is_empty() { Err(Reject::because("it names nobody")) } else { Ok(Self(users)) }
    }
}

/// A hash that can be checked, and in bounded time.
fn hash_of(text: &str) -> Result<PasswordHash, String> {
    if text.starts_with("$argon2") {
        let phc = Phc::new(text).map_err(|error| format!("this is no Argon2 hash: {error}; {WAY_OUT}"))?;
        let params = Params::try_from(&phc).map_err(|error| format!("this is no Argon2 hash: {error}; {WAY_OUT}"))?;
        argon2::Algorithm::try_from(phc.algorithm).map_err(|error| error.to_string())?;
        if phc.salt.is_none() || phc.hash.is_none() {
            return Err(format!("this is no whole Argon2 hash; {WAY_OUT}"));
        }
        if params.m_cost() > ARGON2_MEMORY_MAX || params.t_cost() > ARGON2_PASSES_MAX {
            return Err(format!(
                "checking it would take too long; at most m={ARGON2_MEMORY_MAX} and t={ARGON2_PASSES_MAX}"
            ));
        }
        return Ok(PasswordHash::Argon2(text.to_owned()));
    }
    if ["$2a$", "$2b$", "$2x$", "$2y$"].iter().any(|prefix| text.starts_with(prefix)) {
        let parts: bcrypt::HashParts =
            text.parse().map_err(|error| format!("this is no bcrypt hash: {error}; {WAY_OUT}"))?;
        return match parts.get_cost() {
            4..=BCRYPT_COST_MAX => Ok(PasswordHash::Bcrypt(text.to_owned())),
            cost => Err(format!("bcrypt's cost is {cost}; expected 4 to {BCRYPT_COST_MAX}")),
        };
    }
    let kind = match text {
        _ if text.starts_with("$apr1$") || text.starts_with("$1$") => "MD5 is broken",
        _ if text.starts_with("{SHA}") || text.starts_with("{SSHA}") => "SHA-1 is broken",
        _ if text.starts_with("$5$") || text.starts_with("$6$") => "crypt's SHA-2 hashes are not known here",
        _ => "this is no hash",
    };
    Err(format!("{kind}; expected one of Argon2 or bcrypt: {WAY_OUT}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BCRYPT: &str = "$2y$04$abcdefghijklmnopqrstuuEq6/R5cPLCxQHUn/E44g1cRiScIVEau";
    const ARGON2: &str = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$x0LoX0gZ2FsmHY4MnELdvg";

    #[test]
    fn lines_of_names_and_hashes() {
        let users = Users::parse(&format!("# staff\n\nann:{BCRYPT}\n bob:{ARGON2} \n")).unwrap();
        let expected = [
            ("ann".to_owned(), PasswordHash::Bcrypt(BCRYPT.into())),
            ("bob".into(), PasswordHash::Argon2(ARGON2.into())),
        ];
        assert_eq!(users.0, expected);
        assert_eq!(format!("{users:?}"), r#"{"ann", "bob"}"#);
    }

    #[test]
    fn what_cannot_be_checked_is_named_by_its_line() {
        for (text, why) in [
            ("", "it names nobody"),
            ("# none", "it names nobody"),
            ("ann", "line 1: no colon"),
            (":x", "line 1: the name is empty"),
            ("\nann:plain", "line 2: this is no hash"),
            ("ann:$apr1$x$y", "MD5 is broken"),
            ("ann:{SHA}x", "SHA-1 is broken"),
            ("ann:$6$x$y", "SHA-2"),
            ("ann:$2y$04$short", "no bcrypt hash"),
            ("ann:$argon2id$v=19$m=8,t=1,p=1", "no whole Argon2 hash"),
            ("ann:$argon2xy$v=19$m=8,t=1,p=1$c29tZXNhbHQ$x0LoX0gZ2FsmHY4MnELdvg", "line 1"),
            ("ann:$argon2id$v=19$m=4000000,t=1,p=1$c29tZXNhbHQ$x0LoX0gZ2FsmHY4MnELdvg", "too long"),
            (&format!("ann:{}", BCRYPT.replace("$04$", "$31$")), "cost is 31"),
            (&format!("ann:{BCRYPT}\nann:{BCRYPT}"), "line 2: the name is there before"),
        ] {
            let error = Users::parse(text).unwrap_err();
            assert!(matches!(&error, Reject::Because(said) if said.contains(why)), "{text:?}: {error:?}");
        }
    }
}
