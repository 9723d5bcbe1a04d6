//! The identity of the server: its key, its certificate, and the key that hides which names exist.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lib_chan::auth::NameKey;
use lib_chan::private::{self, PrivateFileError, quoted};
use lib_chan::secret::Secret;
use lib_chan::tls::{CheckedKey, Pin, TlsError};
use zeroize::Zeroizing;

/// The key that will replace the server's.
const NEXT_KEY: &str = "next-key.pem";
/// No key or certificate chain has more bytes.
const MAX_PEM_LEN: usize = 256 * 1024;
/// A certificate that expires sooner is worth a warning.
const EXPIRY_WARNING: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The reason that there is no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A secret file could not be read or written, or others may read it.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// A file does not contain what its name says.
    #[error("{} {what}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The expected contents, and what to do.
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
    /// Returns `true` if this file has to be corrected.
    pub(crate) fn is_about(&self, file: &Path) -> bool {
        match self {
            Self::File(error) => error.path() == file,
            Self::Unusable { path, .. } => path == file,
            Self::Crypto(_) | Self::NoPlace => false,
        }
    }
}

/// A property of a certificate that some clients do not accept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateWarning {
    /// The property, its consequence, and what to do.
    pub text: String,
    /// Clients that look at dates refuse the certificate already.
    pub is_fatal: bool,
}

/// The directory that holds the server's private key, its certificate and its name key.
///
/// Made on first use with mode 0700; its files have mode 0600. Copy it to move a server, or share it in a fleet.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// Returns `$XDG_STATE_HOME/chan-server`, or else `~/.local/state/chan-server`.
    ///
    /// # Errors
    /// [`IdentityError::NoPlace`] when the environment names neither.
    pub fn standard() -> Result<Self, IdentityError> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || absolute("HOME").map(|home| home.join(".local/state"));
        let state = absolute("XDG_STATE_HOME").or_else(home).ok_or(IdentityError::NoPlace)?;
        Ok(Self(state.join("chan-server")))
    }

    /// Returns the directory at this path. Does not make it.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the path of a file in it.
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

    /// Checks the directory and the files in it that exist. Makes none. `has_identity` says whether the key and the certificate
    /// in it are used.
    ///
    /// # Errors
    /// When others may enter it, or a file in it cannot be used.
    pub fn check(&self, has_identity: bool) -> Result<(), IdentityError> {
        let is_there = |path: &Path| path.symlink_metadata().is_ok();
        if !is_there(&self.0) {
            return Ok(());
        }
        private::check_directory(&self.0)?;
        self.known_name_key()?;
        let (key, certificate) = (self.file("key.pem"), self.file("certificate.pem"));
        if has_identity && is_there(&key) && is_there(&certificate) {
            Identity::from_files(&certificate, &key)?;
        }
        Ok(())
    }

    /// Returns the secret from which the salts of all passwords are derived. Makes it on first use.
    ///
    /// Because of it, nobody can tell an unknown name from a known one, even across restarts. Servers that share passwords
    /// should share it.
    ///
    /// # Errors
    /// The file cannot be read or written, or does not have 32 bytes.
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

    /// Makes the key that will replace the server's, if there is none yet, so that clients can pin it before it is used.
    /// Returns its pin.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn announce_key(&self) -> Result<Pin, IdentityError> {
        let next = self.file(NEXT_KEY);
        if !next.try_exists().unwrap_or(true) {
            self.create()?;
            create_key(&next)?;
        }
        pin_of(&next)
    }

    /// Returns the pin of the announced key, if there is one.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no key.
    pub fn next_pin(&self) -> Result<Option<Pin>, IdentityError> {
        let next = self.file(NEXT_KEY);
        if next.symlink_metadata().is_ok() { pin_of(&next).map(Some) } else { Ok(None) }
    }

    /// Replaces the server's key by the announced one. A running server uses it after a reload.
    ///
    /// If the program is ended at any point of this, the directory has a complete identity, the old one or the new one.
    ///
    /// # Errors
    /// When no key is announced, or a file cannot be replaced.
    pub fn rotate_key(&self) -> Result<Identity, IdentityError> {
        let (next, key, certificate) =
            (self.file(NEXT_KEY), self.file("key.pem"), self.file("certificate.pem"));
        if self.next_pin()?.is_none() {
            return Err(unusable(&next, "is not there; announce a key first: chan-server identity --next"));
        }
        // Without a certificate, one is made for the key that is there.
        match fs::remove_file(&certificate) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(unusable(&certificate, &format!("cannot be removed: {error}")));
            }
            _ => {}
        }
        fs::rename(&next, &key).map_err(|error| unusable(&key, &format!("cannot be replaced: {error}")))?;
        Identity::in_state(self)
    }

    /// Returns the name key, if the directory already has one.
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

/// The certificate that the server shows to its clients in TLS, and its private key.
#[derive(Clone)]
pub struct Identity {
    key: CheckedKey,
    pin: Pin,
    /// SHA-256 of the certificate file.
    certificate: [u8; 32],
    /// The pin of the announced key.
    next: Option<Pin>,
}

impl Identity {
    /// Returns the identity in a state directory: an ECDSA P-256 key and a self-signed certificate, made on first use.
    ///
    /// # Errors
    /// When a file cannot be read or written, when others may read the key, or when the two do not fit together.
    pub fn in_state(state: &StateDir) -> Result<Self, IdentityError> {
        let (key, certificate) = (state.file("key.pem"), state.file("certificate.pem"));
        if !key.try_exists().unwrap_or(true) {
            state.create()?;
            create_key(&key)?;
        }
        if !certificate.try_exists().unwrap_or(true) {
            create_or_keep(&certificate, self_signed(&read_pair(&key)?).map_err(crypto)?.as_bytes())?;
        }
        let mut identity = Self::from_files(&certificate, &key)?;
        identity.next = state.next_pin()?;
        Ok(identity)
    }

    /// Returns the identity of a certificate chain, the server's own first, and its private key, both PEM.
    ///
    /// # Errors
    /// When a file cannot be read, when others may read the key, or when the two do not fit together.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, IdentityError> {
        let chain = fs::read(certificate)
            .map_err(|error| unusable(certificate, &format!("cannot be read: {error}")))?;
        let private = private::read(key, MAX_PEM_LEN)?;
        if let Some(what) = unusable_key(key, &private) {
            return Err(unusable(key, &what));
        }
        let checked = CheckedKey::from_pem(&chain, &private);
        let mut digest = [0; 32];
        digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &chain).as_ref());
        let pinned =
            checked.and_then(|key| Ok(Self { pin: key.pin()?, key, certificate: digest, next: None }));
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

    /// Returns the pin of the key.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// Returns the pin of the announced key, if there is one.
    pub fn next_pin(&self) -> Option<Pin> {
        self.next
    }

    /// Returns the pins for a URL: of the current key, and of the announced one.
    fn pins(&self) -> String {
        let next = self.next.map(|next| format!(",{next}"));
        format!("{}{}", self.pin, next.unwrap_or_default())
    }

    /// Returns `true` if both have the same certificate.
    pub(crate) fn is_same_certificate(&self, other: &Self) -> bool {
        self.certificate == other.certificate
    }

    /// Returns warnings for the operator about properties of the certificate that some clients do not accept at the time
    /// `now`.
    ///
    /// Clients that pin the key accept the certificate all the same, so a warning does not keep the server from starting.
    pub fn warnings(&self, now: SystemTime) -> Vec<CertificateWarning> {
        let (from, to) = (self.key.validity().start(), self.key.validity().end());
        let mut warnings = Vec::new();
        let (mut add, still) = (
            |text, is_fatal| warnings.push(CertificateWarning { text, is_fatal }),
            "clients that pin its key still accept it",
        );
        match to.duration_since(now) {
            _ if now < *from => {
                add(
                    format!("is not valid before {}, by the clock of this machine; {still}", day(*from)),
                    true,
                );
            }
            Err(_) => add(format!("expired on {}; renew it; {still}", day(*to)), true),
            Ok(left) if left < EXPIRY_WARNING => {
                let days = left.as_secs() / (24 * 60 * 60);
                add(format!("expires on {}, {days} days from now; renew it", day(*to)), false);
            }
            Ok(_) => {}
        }
        if self.key.is_authority() {
            let text = "is that of an authority (CA:TRUE), which clients with ca= or system refuse as a server's; make \
                        it with: openssl req -x509 … -addext basicConstraints=critical,CA:FALSE";
            add(text.into(), false);
        }
        warnings
    }

    /// Returns certificate and key in the form that [`lib_chan::tls`] uses.
    pub fn key(&self) -> CheckedKey {
        self.key.clone()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.pin)
    }
}

/// Returns the URL of a service for one of its clients. The client's name is empty under a shared password.
pub fn url(client: &str, host: &str, port: u16, service: &str, identity: &Identity) -> String {
    let at = if client.is_empty() { "" } else { "@" };
    let host = if host.contains(':') { format!("[{host}]") } else { host.into() };
    format!("chan://{client}{at}{host}:{port}/{service}?pin={}", identity.pins())
}

/// Two servers that start at once may both find nothing: then the first to write wins, and the other reads that.
pub(crate) fn create_or_keep(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    match private::create(path, bytes) {
        Err(error) if error.io_kind() == Some(io::ErrorKind::AlreadyExists) => Ok(()),
        other => other,
    }
}

/// Makes a certificate for clients that pin its key. Only clients with `ca=` check the name in it.
fn self_signed(pair: &rcgen::KeyPair) -> Result<String, rcgen::Error> {
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "chan-server");
    Ok(params.self_signed(pair)?.pem())
}

fn create_key(path: &Path) -> Result<(), IdentityError> {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(crypto)?;
    Ok(create_or_keep(path, Zeroizing::new(pair.serialize_pem()).as_bytes())?)
}

fn read_pair(key: &Path) -> Result<rcgen::KeyPair, IdentityError> {
    rcgen::KeyPair::from_pem(&read_text(key)?).map_err(|_| not_a_key(key))
}

/// Returns the pin of a private key. All its certificates have the same pin.
fn pin_of(key: &Path) -> Result<Pin, IdentityError> {
    let certificate = self_signed(&read_pair(key)?).map_err(crypto)?;
    let checked = CheckedKey::from_pem(certificate.as_bytes(), read_text(key)?.as_bytes());
    checked.and_then(|key| key.pin()).map_err(|_| not_a_key(key))
}

fn read_text(path: &Path) -> Result<Zeroizing<String>, IdentityError> {
    let bytes = private::read(path, MAX_PEM_LEN)?;
    let text = str::from_utf8(&bytes).map_err(|_| not_a_key(path))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn not_a_key(path: &Path) -> IdentityError {
    unusable(path, "holds no private key in PEM")
}

/// Returns the fault of a file whose private key the server cannot use.
fn unusable_key(path: &Path, pem: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(pem);
    let has = |word: &str| text.contains(word);
    if has("-----BEGIN ENCRYPTED PRIVATE KEY-----") || has("Proc-Type: 4,ENCRYPTED") {
        let path = quoted(path);
        return Some(format!(
            "is encrypted, and the server asks nobody for a passphrase; decrypt it into a file of mode 0600: \
             openssl pkey -in {path} -out FILE"
        ));
    }
    has("-----BEGIN OPENSSH PRIVATE KEY-----")
        .then(|| "holds a key in the format of OpenSSH; it must be PEM (PKCS #8)".into())
}

/// Returns the day of a time, as `2026-11-28`.
fn day(moment: SystemTime) -> String {
    // A year beyond 9999 is as far away as one can be.
    match moment.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) if since.as_secs() < 253_402_300_800 => {
            let text = humantime::format_rfc3339_seconds(moment).to_string();
            text.split('T').next().unwrap_or_default().to_owned()
        }
        _ => "a day after the year 9999".into(),
    }
}

fn unusable(path: &Path, what: &str) -> IdentityError {
    IdentityError::Unusable { path: path.into(), what: what.into() }
}

fn crypto(error: rcgen::Error) -> IdentityError {
    IdentityError::Crypto(error.to_string())
}

#[cfg(test)]
mod tests;
