//! Passwords, and the keys derived from them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use super::{PrivateKey, PublicKey};
use crate::auth::{Argon2Params, ClientId, DerivedKeys, Salt, ServiceName};

/// A password, and the keys derived from it so far.
///
/// To derive a key costs 64 MiB and some tenths of a second, by intent. This value therefore keeps the keys, one for
/// each host, service and client. A second connection with the same value, or with a clone of it, costs one signature.
/// Another value with the same password does not share the keys. They are never written to disk. The last clone that is
/// dropped wipes the keys and the password.
#[derive(Clone)]
pub struct Password(Arc<PasswordInner>);

struct PasswordInner {
    bytes: Zeroizing<Vec<u8>>,
    /// The newest is the last.
    keys: Mutex<VecDeque<KnownKeys>>,
    derivations: AtomicU64,
}

struct KnownKeys {
    target: Target,
    salt: Salt,
    params: Argon2Params,
    keys: Arc<DerivedKeys>,
}

/// Two values are equal if they hold the same password, whatever keys they know.
impl PartialEq for Password {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Password {}

impl Password {
    /// The longest password in bytes.
    pub const MAX_LEN: usize = 1024;
    /// The longest password file in bytes, with its newline.
    pub const MAX_FILE_LEN: usize = Self::MAX_LEN + 2;

    /// The number of targets whose keys one value remembers. The oldest is forgotten first.
    const MAX_TARGETS: usize = 256;

    /// Makes a password of the text as typed, byte for byte.
    ///
    /// # Errors
    ///
    /// Returns an error if the text is empty, is longer than [`MAX_LEN`](Self::MAX_LEN), or is clearly something else: a
    /// verifier, a key or PEM.
    pub fn new(text: &str) -> Result<Self, PasswordError> {
        if text.is_empty() {
            return Err(PasswordError::Empty);
        }
        if let Some(what) = something_else(text) {
            return Err(PasswordError::SomethingElse(what));
        }
        if text.len() > Self::MAX_LEN {
            return Err(PasswordError::TooLong);
        }
        Ok(Self(Arc::new(PasswordInner {
            bytes: Zeroizing::new(text.as_bytes().to_vec()),
            keys: Mutex::default(),
            derivations: AtomicU64::new(0),
        })))
    }

    /// Makes a password of the only line of a file. One newline (`\n` or `\r\n`) at the end is allowed.
    ///
    /// # Errors
    ///
    /// Returns an error if the contents are not one line of UTF-8, begin with a byte order mark, or are not a password by
    /// the rules of [`new`](Self::new).
    pub fn from_file_contents(contents: &[u8]) -> Result<Self, PasswordError> {
        let text = std::str::from_utf8(contents).map_err(|_| PasswordError::NotUtf8)?;
        if text.starts_with('\u{feff}') {
            return Err(PasswordError::ByteOrderMark);
        }
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = if line.len() < text.len() { line.strip_suffix('\r').unwrap_or(line) } else { line };
        // Checked before the number of lines: a PEM file has several, and its first line says what it is.
        if let Some(what) = something_else(line) {
            return Err(PasswordError::SomethingElse(what));
        }
        if line.contains('\n') {
            return Err(PasswordError::SeveralLines);
        }
        Self::new(line)
    }

    /// Returns the number of characters, for rules about short passwords.
    pub fn chars(&self) -> usize {
        std::str::from_utf8(self.bytes()).map_or(0, |text| text.chars().count())
    }

    /// Returns how often Argon2 has run for this value and its clones.
    pub fn derivations(&self) -> u64 {
        self.0.derivations.load(Ordering::Relaxed)
    }

    /// Returns whether a key for this target is known. A login there then needs no Argon2, unless the server has changed
    /// its salt.
    pub fn has_key_for(&self, target: &Target) -> bool {
        self.known().iter().any(|known| known.target == *target)
    }

    /// Returns the keys for this target if they are known. Keys of another target with the same salt and parameters serve
    /// too, because they are equal.
    pub fn known_keys(&self, target: &Target, salt: &Salt, params: Argon2Params) -> Option<Arc<DerivedKeys>> {
        let mut known = self.known();
        let found = known.iter().find(|known| known.salt == *salt && known.params == params)?;
        let keys = Arc::clone(&found.keys);
        if found.target != *target {
            remember(&mut known, target, salt, params, &keys);
        }
        Some(keys)
    }

    /// Keeps the keys for the next login at this target. They replace older ones.
    pub fn remember_keys(&self, target: &Target, salt: &Salt, params: Argon2Params, keys: &Arc<DerivedKeys>) {
        remember(&mut self.known(), target, salt, params, keys);
    }

    /// Forgets the keys for this target, because the server has changed its salt.
    pub fn forget_keys(&self, target: &Target) {
        self.known().retain(|known| known.target != *target);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    pub(crate) fn count_derivation(&self) {
        self.0.derivations.fetch_add(1, Ordering::Relaxed);
    }

    fn known(&self) -> MutexGuard<'_, VecDeque<KnownKeys>> {
        // No change under this lock can stop halfway, so a poisoned lock is as good as any.
        self.0.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remember(
    known: &mut VecDeque<KnownKeys>,
    target: &Target,
    salt: &Salt,
    params: Argon2Params,
    keys: &Arc<DerivedKeys>,
) {
    known.retain(|known| known.target != *target);
    if known.len() >= Password::MAX_TARGETS {
        known.pop_front();
    }
    known.push_back(KnownKeys { target: target.clone(), salt: *salt, params, keys: Arc::clone(keys) });
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// The purpose of a password: a service of a host, and the name of the client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The host and port as the caller wrote them. They are compared, never resolved.
    pub host: Box<str>,
    /// The service.
    pub service: ServiceName,
    /// The client; empty if the service has one password for everybody.
    pub client: ClientId,
}

/// Why bytes are not a password. The error never repeats them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordError {
    /// There are no bytes.
    #[error("the password is empty")]
    Empty,
    /// There are more than [`Password::MAX_LEN`] bytes.
    #[error("the password is longer than {} bytes", Password::MAX_LEN)]
    TooLong,
    /// The contents of the file are not UTF-8.
    #[error("the password is not UTF-8")]
    NotUtf8,
    /// The file begins with a byte order mark. Some editors write one, and nobody would type it.
    #[error("the file begins with a byte order mark; save it as UTF-8 without one")]
    ByteOrderMark,
    /// The file has more than one line.
    #[error("the file has more than one line; a password is one line")]
    SeveralLines,
    /// The text is something that belongs elsewhere in the configuration.
    #[error("this is {0}, not a password")]
    SomethingElse(&'static str),
}

/// Returns what a text clearly is, if it is not a password.
fn something_else(text: &str) -> Option<&'static str> {
    const KINDS: [(&str, &str); 4] = [
        ("$chan$", "a verifier"),
        (PrivateKey::FILE_PREFIX, "a client's private key"),
        ("-----BEGIN ", "a key or certificate in PEM"),
        (PublicKey::PREFIX, "a client's public key"),
    ];
    let (_, what) = KINDS.into_iter().find(|(prefix, _)| text.starts_with(prefix))?;
    Some(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn target(host: &str) -> Target {
        Target { host: host.into(), service: ServiceName::new("s").unwrap(), client: ClientId::default() }
    }

    fn some_keys() -> Arc<DerivedKeys> {
        let client = PrivateKey::from_seed(Secret::new([1; 32])).unwrap();
        Arc::new(DerivedKeys { client, server: Secret::new([2; 32]) })
    }

    #[test]
    fn password_keeps_its_bytes() {
        assert_eq!(Password::new("pässwörd \n").unwrap().bytes(), "pässwörd \n".as_bytes());
        assert_eq!(Password::new("").unwrap_err(), PasswordError::Empty);
        assert!(Password::new(&"x".repeat(1024)).is_ok());
        assert_eq!(Password::new(&"x".repeat(1025)).unwrap_err(), PasswordError::TooLong);
        assert_eq!(Password::new("pässwörd").unwrap().chars(), 8);
    }

    #[test]
    fn password_file_loses_one_newline() {
        let read = |contents: &[u8]| Password::from_file_contents(contents).map(|p| p.bytes().to_vec());
        assert_eq!(read(b"secret"), Ok(b"secret".to_vec()));
        assert_eq!(read(b"secret\n"), Ok(b"secret".to_vec()));
        assert_eq!(read(b"secret\r\n"), Ok(b"secret".to_vec()));
        assert_eq!(read(b"secret\r"), Ok(b"secret\r".to_vec()));
        assert_eq!(read(b" secret "), Ok(b" secret ".to_vec()));
        assert_eq!(read(b"\n"), Err(PasswordError::Empty));
        assert_eq!(read(b"\xff"), Err(PasswordError::NotUtf8));
        assert_eq!(read(&[b'x'; 1025]), Err(PasswordError::TooLong));
        assert_eq!(read(&[[b'x'; 1024].as_slice(), b"\n"].concat()), Ok(vec![b'x'; 1024]));
    }

    #[test]
    fn refuses_file_with_something_else() {
        let key = PrivateKey::from_seed(Secret::new([5; 32])).unwrap();
        for (contents, error) in [
            ("$chan$argon2id$v=19$m=65536,t=3,p=1$AgI$x$y\n", PasswordError::SomethingElse("a verifier")),
            (&key.to_file_contents(), PasswordError::SomethingElse("a client's private key")),
            (&key.public_key().to_string(), PasswordError::SomethingElse("a client's public key")),
            (
                "-----BEGIN PRIVATE KEY-----\nMC4C\n",
                PasswordError::SomethingElse("a key or certificate in PEM"),
            ),
            ("\u{feff}secret\n", PasswordError::ByteOrderMark),
            ("secret\nmore\n", PasswordError::SeveralLines),
            ("secret\n\n", PasswordError::SeveralLines),
        ] {
            assert_eq!(Password::from_file_contents(contents.as_bytes()).unwrap_err(), error);
        }
        let typed = Password::new(&key.public_key().to_string()).unwrap_err();
        assert_eq!(typed, PasswordError::SomethingElse("a client's public key"));
    }

    #[test]
    fn only_clones_share_keys() {
        let (salt, params) = (Salt([1; 16]), Argon2Params::DEFAULT);
        let (mine, other) = (Password::new("secret").unwrap(), Password::new("secret").unwrap());
        mine.remember_keys(&target("a"), &salt, params, &some_keys());
        let clone = mine.clone();
        drop(mine);
        assert!(clone.known_keys(&target("a"), &salt, params).is_some());
        assert!(other.known_keys(&target("a"), &salt, params).is_none());
        assert!(!other.has_key_for(&target("a")));
    }

    #[test]
    fn keys_serve_targets_with_equal_salt() {
        let (salt, params) = (Salt([1; 16]), Argon2Params::DEFAULT);
        let password = Password::new("secret").unwrap();
        password.remember_keys(&target("a"), &salt, params, &some_keys());
        assert!(password.known_keys(&target("a"), &Salt([2; 16]), params).is_none());
        let others = Argon2Params::new(65_536, 4, 1).unwrap();
        assert!(password.known_keys(&target("a"), &salt, others).is_none());

        // Servers with one name key use one salt, so a key of one serves for the others.
        assert!(!password.has_key_for(&target("b")));
        assert!(password.known_keys(&target("b"), &salt, params).is_some());
        assert!(password.has_key_for(&target("b")));

        password.forget_keys(&target("a"));
        assert!(!password.has_key_for(&target("a")) && password.has_key_for(&target("b")));
    }

    #[test]
    fn forgets_oldest_target() {
        let password = Password::new("secret").unwrap();
        let keys = some_keys();
        for host in 0..=Password::MAX_TARGETS {
            let salt = Salt([u8::try_from(host % 251).unwrap(); 16]);
            password.remember_keys(&target(&host.to_string()), &salt, Argon2Params::DEFAULT, &keys);
        }
        assert_eq!(password.known().len(), Password::MAX_TARGETS);
        assert!(!password.has_key_for(&target("0")) && password.has_key_for(&target("1")));
    }
}
