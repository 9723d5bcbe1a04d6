//! Who the server is: its key, its certificate, and the key that hides which names exist.

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

/// What some clients will not accept about a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateWarning {
    /// What it is, what follows, and what to do.
    pub text: String,
    /// Clients that look at dates refuse the certificate already.
    pub is_fatal: bool,
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

    /// Checks what the directory holds, as far as there is anything, and makes nothing. `has_identity` says whether the key
    /// and the certificate in it are used.
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

    /// The pin of the key that is announced, if one is.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no key.
    pub fn next_pin(&self) -> Result<Option<Pin>, IdentityError> {
        let next = self.file(NEXT_KEY);
        if next.symlink_metadata().is_ok() { pin_of(&next).map(Some) } else { Ok(None) }
    }

    /// Puts the key that is announced in the place of the server's. A running server uses it after a reload.
    ///
    /// The program may be ended at any point of this: whatever it leaves behind is a whole identity, the old one or the
    /// new one.
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
    /// SHA-256 of the certificate file.
    certificate: [u8; 32],
    /// The pin of the key that will come after this one.
    next: Option<Pin>,
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
            create_key(&key)?;
        }
        if !certificate.try_exists().unwrap_or(true) {
            create_or_keep(&certificate, self_signed(&read_pair(&key)?).map_err(crypto)?.as_bytes())?;
        }
        let mut identity = Self::from_files(&certificate, &key)?;
        identity.next = state.next_pin()?;
        Ok(identity)
    }

    /// The identity in a certificate chain, the server's own first, and its private key, both PEM.
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

    /// What a client pins.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// The pin of the key that will replace this one, if it is announced.
    pub fn next_pin(&self) -> Option<Pin> {
        self.next
    }

    /// Returns all that a client should pin, as a URL has it: the key of today, and the one that is announced.
    fn pins(&self) -> String {
        let next = self.next.map(|next| format!(",{next}"));
        format!("{}{}", self.pin, next.unwrap_or_default())
    }

    /// Returns whether both show the same certificate.
    pub(crate) fn is_same_certificate(&self, other: &Self) -> bool {
        self.certificate == other.certificate
    }

    /// Returns what some clients will not accept about the certificate at the moment `now`, in words for the owner of the
    /// server.
    ///
    /// Clients that pin the key accept it all the same, so none of this keeps the server from starting.
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

/// A certificate for whoever pins its key: the name in it is only looked at by clients with `ca=`.
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

/// The pin of a private key that has no certificate yet: that of any certificate of it.
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

/// What is wrong with a file that holds a private key which the server cannot use.
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

/// The day of a moment, as `2026-11-28`.
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
    fn lost_certificate_is_made_again_for_key() {
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
    fn pin_matches_key_file() {
        let (_directory, state) = state();
        let identity = Identity::in_state(&state).unwrap();
        let pem = fs::read_to_string(state.file("key.pem")).unwrap();
        let pair = rcgen::KeyPair::from_pem(&pem).unwrap();
        let spki = rcgen::PublicKeyData::subject_public_key_info(&pair);
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &spki);
        assert_eq!(identity.pin().0.as_slice(), hash.as_ref());
    }

    #[test]
    fn refuses_key_of_other_certificate() {
        let ((_one, one), (_two, two)) = (state(), state());
        Identity::in_state(&one).unwrap();
        Identity::in_state(&two).unwrap();
        let error = Identity::from_files(&one.file("certificate.pem"), &two.file("key.pem")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("key.pem is not the key that belongs to"), "{text}");
    }

    #[test]
    fn refuses_exposed_secrets_with_fix() {
        use std::os::unix::fs::PermissionsExt;
        let (_directory, state) = state();
        Identity::in_state(&state).unwrap();
        state.name_key().unwrap();
        for name in ["key.pem", "name.key"] {
            let path = state.file(name);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        }
        let text = Identity::in_state(&state).unwrap_err().to_string();
        assert!(text.contains("run: chmod 600 /") && text.ends_with("key.pem"), "{text}");
        let text = state.name_key().unwrap_err().to_string();
        assert!(text.contains("run: chmod 600 /") && text.ends_with("name.key"), "{text}");
    }

    #[test]
    fn warns_of_dates_and_authorities() {
        let day = 24 * 60 * 60;
        let at = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * day);
        let identity = |is_ca| {
            let directory = tempfile::tempdir().unwrap();
            let pair = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
            (params.not_before, params.not_after) = (at(10_000).into(), at(20_000).into());
            if is_ca {
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            }
            let (certificate, key) = (directory.path().join("c"), directory.path().join("k"));
            fs::write(&certificate, params.self_signed(&pair).unwrap().pem()).unwrap();
            private::create(&key, pair.serialize_pem().as_bytes()).unwrap();
            Identity::from_files(&certificate, &key).unwrap()
        };
        let said = |days| {
            let warnings = identity(false).warnings(at(days)).into_iter();
            warnings.map(|warning| (warning.text, warning.is_fatal)).collect::<Vec<_>>()
        };
        assert_eq!(said(10_001), []);
        assert_eq!(said(19_970), []);
        assert_eq!(said(19_971), [("expires on 2024-10-04, 29 days from now; renew it".into(), false)]);
        let still = "clients that pin its key still accept it";
        assert_eq!(said(20_001), [(format!("expired on 2024-10-04; renew it; {still}"), true)]);
        let early = "is not valid before 1997-05-19, by the clock of this machine";
        assert_eq!(said(4), [(format!("{early}; {still}"), true)]);
        assert!(identity(true).warnings(at(10_001))[0].text.contains("CA:TRUE"));
    }

    #[test]
    fn says_how_to_decrypt_a_key() {
        let (_directory, state) = state();
        Identity::in_state(&state).unwrap();
        let key = state.file("encrypted.pem");
        private::create(&key, b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIH\n").unwrap();
        let error = Identity::from_files(&state.file("certificate.pem"), &key).unwrap_err().to_string();
        assert!(error.contains("is encrypted") && error.contains("openssl pkey -in "), "{error}");
    }

    #[test]
    fn check_creates_nothing_and_finds_faults() {
        let (_directory, state) = state();
        state.check(true).unwrap();
        assert!(!state.path().exists());
        Identity::in_state(&state).unwrap();
        state.check(true).unwrap();
        fs::remove_file(state.file("key.pem")).unwrap();
        private::create(&state.file("key.pem"), b"no key").unwrap();
        assert!(state.check(true).unwrap_err().to_string().contains("holds no private key in PEM"));
        state.check(false).unwrap();
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
    fn urls_name_client_and_bracket_ipv6() {
        let (_directory, state) = state();
        let identity = Identity::in_state(&state).unwrap();
        let tail = format!("?pin={}", identity.pin());
        assert_eq!(
            url("", "localhost", 1234, "echo", &identity),
            format!("chan://localhost:1234/echo{tail}")
        );
        assert_eq!(url("joe", "::1", 1, "kv", &identity), format!("chan://joe@[::1]:1/kv{tail}"));
        let next = state.announce_key().unwrap();
        let identity = Identity::in_state(&state).unwrap();
        assert_eq!(url("", "a.b", 1, "kv", &identity), format!("chan://a.b:1/kv{tail},{next}"));
    }

    #[test]
    fn rotated_key_is_the_announced_one() {
        let (_directory, state) = state();
        let old = Identity::in_state(&state).unwrap();
        assert!(state.rotate_key().unwrap_err().to_string().contains("identity --next"));
        let next = state.announce_key().unwrap();
        assert_eq!(state.announce_key().unwrap(), next, "announced once");
        assert_eq!(Identity::in_state(&state).unwrap().pin(), old.pin());
        let rotated = state.rotate_key().unwrap();
        assert_eq!((rotated.pin(), rotated.next_pin()), (next, None));
        assert_eq!(Identity::in_state(&state).unwrap().pin(), next);
    }

    #[test]
    fn rotation_cut_anywhere_leaves_an_identity() {
        let (_directory, state) = state();
        let old = Identity::in_state(&state).unwrap().pin();
        let next = state.announce_key().unwrap();
        fs::remove_file(state.file("certificate.pem")).unwrap();
        assert_eq!(Identity::in_state(&state).unwrap().pin(), old);
        fs::remove_file(state.file("certificate.pem")).unwrap();
        fs::rename(state.file("next-key.pem"), state.file("key.pem")).unwrap();
        assert_eq!(Identity::in_state(&state).unwrap().pin(), next);
    }
}
