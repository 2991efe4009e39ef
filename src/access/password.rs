//! A password and its hash. Both directions take tens of milliseconds on purpose: never call them on a worker.

use argon2::Argon2;
use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash as Phc, PasswordHasher, PasswordVerifier, SaltString};

use crate::config::model::PasswordHash;

/// Whether it is the password that the hash was made of.
#[must_use]
pub fn is_right(password: &[u8], hash: &PasswordHash) -> bool {
    match hash {
        PasswordHash::Argon2(text) => {
            Phc::new(text).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
        }
        // As htpasswd does, bcrypt looks at the first 72 bytes alone.
        PasswordHash::Bcrypt(text) => bcrypt::verify(password, text).unwrap_or(false),
    }
}

/// Argon2id with 19 MiB and two passes, as OWASP's password storage recommendations have it.
///
/// # Errors
/// The system gives no random bytes, or the password is longer than Argon2 takes.
pub fn hash(password: &[u8]) -> Result<String, String> {
    let salt = SaltString::generate(&mut OsRng);
    let hash = Argon2::default().hash_password(password, &salt);
    hash.map(|hash| hash.to_string()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_and_wrong() {
        let bcrypt = PasswordHash::Bcrypt(bcrypt::hash("open sesame", 4).unwrap());
        let argon2 = PasswordHash::Argon2(hash(b"open sesame").unwrap());
        // Written by Debian's htpasswd -nbB -C 4 and by the reference argon2.
        let htpasswd = PasswordHash::Bcrypt(HTPASSWD.into());
        let reference = PasswordHash::Argon2(REFERENCE.into());
        for hash in [&bcrypt, &argon2, &htpasswd, &reference] {
            assert!(is_right(b"open sesame", hash), "{}", hash.text());
            for wrong in [&b""[..], b"open", b"open sesame ", b"Open sesame", b"\0", b"open sesame\0", &[b'x'; 5000]] {
                assert!(!is_right(wrong, hash), "{wrong:?} {}", hash.text());
            }
        }
        assert_ne!(hash(b"x").unwrap(), hash(b"x").unwrap());
    }

    const HTPASSWD: &str = "$2y$04$tB94WBZR9LJxLK6R8IMTpuRzSqO8Nemkd3XuZW6wLEONk/e45zh0.";
    const REFERENCE: &str =
        "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQxNmJ5dGVz$k+8MvGS0axbFyGuf+tihVumQQtxV/MkimdOBpTIqnmY";
}
