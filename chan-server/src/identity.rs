//! Who the server is: its key, its certificate, and the key that hides which names exist.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use lib_chan::auth::NameKey;
use lib_chan::private::{self, PrivateFileError, quoted};
use lib_chan::secret::Secret;
use lib_chan::tls::{CheckedKey, Pin, TlsError};
use zeroize::Zeroizing;

/// No key or certificate chain has more bytes.
const MAX_PEM_LEN: usize = 256 * 1024;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A secret file could not be read or written, or others may read it.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// A file is there and is not what its name says.
    #[error("{} {what}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What it should be, and what to do.
        what: String,
    },
    /// The cryptographic library failed.
    #[error("cannot make a key: {0}")]
    Crypto(String),
    /// Neither `XDG_STATE_HOME` nor `HOME` says where the state directory is.
    #[error("no place for the state directory: set HOME, or give --state DIR")]
    NoPlace,
}

impl IdentityError {
    /// Whether it is this file that must be mended.
    pub(crate) fn is_about(&self, file: &Path) -> bool {
        match self {
            Self::File(error) => error.path() == file,
            Self::Unusable { path, .. } => path == file,
            Self::Crypto(_) | Self::NoPlace => false,
        }
    }
}

/// The directory that holds what a server must not lose: its private key, its certificate and its name key.
///
/// Made on first use, mode 0700; the files in it have mode 0600. Copy it to move a server, share it in a fleet.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// `$XDG_STATE_HOME/chan-server`, or else `~/.local/state/chan-server`.
    ///
    /// # Errors
    /// [`IdentityError::NoPlace`] when the environment names neither.
    pub fn standard() -> Result<Self, IdentityError> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || absolute("HOME").map(|home| home.join(".local/state"));
        let state = absolute("XDG_STATE_HOME").or_else(home).ok_or(IdentityError::NoPlace)?;
        Ok(Self(state.join("chan-server")))
    }

    /// Another directory.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes the directory if there is none.
    ///
    /// # Errors
    /// When it cannot be made, or others may enter it.
    pub fn create(&self) -> Result<(), IdentityError> {
        Ok(private::create_directory(&self.0)?)
    }

    /// The secret from which the salts of all passwords come; made on first use.
    ///
    /// With it an unknown name cannot be told from a known one, before and after a restart. Servers that share
    /// passwords should share it.
    ///
    /// # Errors
    /// When it cannot be read or written, or the file has not 32 bytes.
    pub fn name_key(&self) -> Result<NameKey, IdentityError> {
        let path = self.file("name.key");
        if !path.try_exists().unwrap_or(true) {
            self.create()?;
            let mut bytes = Zeroizing::new([0; 32]);
            aws_lc_rs::rand::fill(&mut *bytes).map_err(|_| IdentityError::Crypto("no randomness".into()))?;
            create_or_keep(&path, &*bytes)?;
        }
        let bytes = private::read(&path, 32)?;
        let bytes = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| IdentityError::Unusable {
            path,
            what: "is not a name key of 32 bytes; restore it, or remove it and make every verifier anew"
                .into(),
        })?;
        Ok(NameKey::new(Secret::new(bytes)))
    }

    /// The name key, if the directory already has one.
    ///
    /// # Errors
    /// As [`name_key`](Self::name_key).
    pub fn known_name_key(&self) -> Result<Option<NameKey>, IdentityError> {
        match self.file("name.key").try_exists() {
            Ok(false) => Ok(None),
            _ => self.name_key().map(Some),
        }
    }
}

/// What the server shows to its clients in TLS, and the private key for it.
#[derive(Clone)]
pub struct Identity {
    key: CheckedKey,
    pin: Pin,
}

impl Identity {
    /// The identity in a state directory: an ECDSA P-256 key and a certificate signed by itself, made on first use.
    ///
    /// # Errors
    /// When a file cannot be read or written, when others may read the key, or when the two do not fit together.
    pub fn in_state(state: &StateDir) -> Result<Self, IdentityError> {
        let (key, certificate) = (state.file("key.pem"), state.file("certificate.pem"));
        if !key.try_exists().unwrap_or(true) {
            state.create()?;
            let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(crypto)?;
            create_or_keep(&key, Zeroizing::new(pair.serialize_pem()).as_bytes())?;
        }
        if !certificate.try_exists().unwrap_or(true) {
            let pem = read_text(&key)?;
            let pair = rcgen::KeyPair::from_pem(&pem).map_err(|_| not_a_key(&key))?;
            create_or_keep(&certificate, self_signed(&pair).map_err(crypto)?.as_bytes())?;
        }
        Self::from_files(&certificate, &key)
    }

    /// The identity in a certificate chain, the server's own first, and its private key, both PEM.
    ///
    /// # Errors
    /// When a file cannot be read, when others may read the key, or when the two do not fit together.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, IdentityError> {
        let chain = fs::read(certificate)
            .map_err(|error| unusable(certificate, &format!("cannot be read: {error}")))?;
        let private = private::read(key, MAX_PEM_LEN)?;
        #[expect(clippy::disallowed_methods, reason = "the dates in a certificate are those of the calendar")]
        let now = SystemTime::now();
        let checked = CheckedKey::from_pem(&chain, &private, now);
        let pinned = checked.and_then(|key| Ok(Self { pin: key.pin()?, key }));
        pinned.map_err(|error| match error {
            TlsError::Unreadable { what: "private key", .. } => not_a_key(key),
            TlsError::Rustls(rustls::Error::InconsistentKeys(_)) => {
                unusable(key, &format!("is not the key that belongs to {}", quoted(certificate)))
            }
            TlsError::Rustls(rustls::Error::NoCertificatesPresented) => {
                unusable(certificate, "holds no certificate in PEM")
            }
            TlsError::Rustls(rustls::Error::General(_)) => not_a_key(key),
            error => unusable(certificate, &format!("cannot be used: {error}")),
        })
    }

    /// What a client pins.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// Certificate and key, as [`lib_chan::tls`] wants them.
    pub fn key(&self) -> CheckedKey {
        self.key.clone()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.pin)
    }
}

/// The URL of a service, for one of its clients; the client's name is empty where all share a password.
pub fn url(client: &str, host: &str, port: u16, service: &str, pin: Pin) -> String {
    let at = if client.is_empty() { "" } else { "@" };
    let host = if host.contains(':') { format!("[{host}]") } else { host.into() };
    format!("chan://{client}{at}{host}:{port}/{service}?pin={pin}")
}

/// Two servers that start at once may both find nothing: then the first to write wins, and the other reads that.
pub(crate) fn create_or_keep(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    match private::create(path, bytes) {
        Err(PrivateFileError::Io { error, .. }) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// A certificate for whoever pins its key: the name in it is only looked at by clients with `ca=`.
fn self_signed(pair: &rcgen::KeyPair) -> Result<String, rcgen::Error> {
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "chan-server");
    Ok(params.self_signed(pair)?.pem())
}

fn read_text(path: &Path) -> Result<Zeroizing<String>, IdentityError> {
    let bytes = private::read(path, MAX_PEM_LEN)?;
    let text = str::from_utf8(&bytes).map_err(|_| not_a_key(path))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn not_a_key(path: &Path) -> IdentityError {
    unusable(path, "holds no private key in PEM")
}

fn unusable(path: &Path, what: &str) -> IdentityError {
    IdentityError::Unusable { path: path.into(), what: what.into() }
}

fn crypto(error: rcgen::Error) -> IdentityError {
    IdentityError::Crypto(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, StateDir) {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::at(directory.path().join("state"));
        (directory, state)
    }

    #[test]
    fn an_identity_is_made_once_and_stays() {
        let (_directory, state) = state();
        let first = Identity::in_state(&state).unwrap();
        let second = Identity::in_state(&state).unwrap();
        assert_eq!(first.pin(), second.pin());
        let (_other, other) = self::state();
        assert_ne!(Identity::in_state(&other).unwrap().pin(), first.pin());
    }

    #[test]
    fn a_lost_certificate_is_made_anew_for_the_same_key() {
        let (_directory, state) = state();
        let first = Identity::in_state(&state).unwrap();
        fs::remove_file(state.file("certificate.pem")).unwrap();
        assert_eq!(Identity::in_state(&state).unwrap().pin(), first.pin());
    }

    #[test]
    fn the_name_key_is_made_once_and_stays() {
        let (_directory, state) = state();
        assert!(state.known_name_key().unwrap().is_none());
        let first = state.name_key().unwrap();
        assert_eq!(state.name_key().unwrap().expose(), first.expose());
        assert_eq!(state.known_name_key().unwrap().unwrap().expose(), first.expose());
    }

    #[test]
    fn the_pin_is_that_of_the_public_key_in_the_key_file() {
        let (_directory, state) = state();
        let identity = Identity::in_state(&state).unwrap();
        let pem = fs::read_to_string(state.file("key.pem")).unwrap();
        let pair = rcgen::KeyPair::from_pem(&pem).unwrap();
        let spki = rcgen::PublicKeyData::subject_public_key_info(&pair);
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &spki);
        assert_eq!(identity.pin().0.as_slice(), hash.as_ref());
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_by_name() {
        let ((_one, one), (_two, two)) = (state(), state());
        Identity::in_state(&one).unwrap();
        Identity::in_state(&two).unwrap();
        let error = Identity::from_files(&one.file("certificate.pem"), &two.file("key.pem")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("key.pem is not the key that belongs to"), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn secrets_that_others_may_read_are_refused_with_the_command_that_mends_it() {
        use std::os::unix::fs::PermissionsExt;
        let (_directory, state) = state();
        Identity::in_state(&state).unwrap();
        state.name_key().unwrap();
        for name in ["key.pem", "name.key"] {
            let path = state.file(name);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        }
        let text = Identity::in_state(&state).unwrap_err().to_string();
        assert!(text.contains("run: chmod 600 /") && text.ends_with("key.pem"), "{text}");
        let text = state.name_key().unwrap_err().to_string();
        assert!(text.contains("run: chmod 600 /") && text.ends_with("name.key"), "{text}");
    }

    #[test]
    fn broken_files_are_refused_and_not_replaced() {
        let (_directory, state) = state();
        state.create().unwrap();
        private::create(&state.file("key.pem"), b"no key").unwrap();
        private::create(&state.file("name.key"), b"short").unwrap();
        assert!(Identity::in_state(&state).unwrap_err().to_string().contains("holds no private key in PEM"));
        assert!(state.name_key().unwrap_err().to_string().contains("is not a name key of 32 bytes"));
        assert_eq!(fs::read(state.file("key.pem")).unwrap(), b"no key");
    }

    #[test]
    fn a_url_names_the_client_where_there_is_one_and_brackets_ipv6() {
        let pin = Pin([0; 32]);
        let tail = format!("?pin=sha256:{}", "A".repeat(43));
        assert_eq!(url("", "localhost", 1234, "echo", pin), format!("chan://localhost:1234/echo{tail}"));
        assert_eq!(url("joe", "::1", 1, "kv", pin), format!("chan://joe@[::1]:1/kv{tail}"));
    }
}
