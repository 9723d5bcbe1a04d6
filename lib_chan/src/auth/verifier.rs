//! The verifier that a server stores in place of a password.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::argon2id::{Argon2Params, DerivedKeys, ParamsError, Salt, StretchError};
use crate::secret::{KeyError, Password, PublicKey, Secret, decode_exactly};

/// The record that a server stores in place of a password.
///
/// Its text is `$chan$argon2id$v=19$m=65536,t=3,p=1$<salt>$<public key>$<server key>`, with the last three fields in
/// base64url without padding. A verifier logs nobody in, but it is a secret: a thief can impersonate the server and guess
/// passwords against it. `Debug` masks it; [`to_line`](Self::to_line) returns it.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordVerifier {
    params: Argon2Params,
    salt: Salt,
    public_key: PublicKey,
    server_key: Secret<32>,
}

impl PasswordVerifier {
    pub(super) fn new(
        params: Argon2Params,
        salt: Salt,
        public_key: PublicKey,
        server_key: Secret<32>,
    ) -> Self {
        Self { params, salt, public_key, server_key }
    }

    /// Derives the verifier of a password with Argon2id, for a configuration or a verifier file. Blocks for a tenth of a
    /// second or more.
    ///
    /// Pass the salt of [`NameKey::salt`](super::NameKey::salt), so that it is the same after a restart.
    ///
    /// # Errors
    /// The memory cannot be allocated.
    pub fn derive(password: &Password, salt: &Salt, params: Argon2Params) -> Result<Self, StretchError> {
        Ok(DerivedKeys::derive(password, salt, params)?.verifier(salt, params))
    }

    /// Returns the verifier as one line for a configuration. The line is a secret.
    pub fn to_line(&self) -> Zeroizing<String> {
        let mut line = Zeroizing::new(String::with_capacity(192));
        line.push_str(&format!("{PREFIX}{}$", self.params));
        for (bytes, end) in
            [(&self.salt.0[..], "$"), (self.public_key.as_bytes(), "$"), (self.server_key.expose(), "")]
        {
            URL_SAFE_NO_PAD.encode_string(bytes, &mut line);
            line.push_str(end);
        }
        line
    }

    /// Returns the parameters of Argon2id.
    pub fn params(&self) -> Argon2Params {
        self.params
    }

    /// Returns the salt.
    pub fn salt(&self) -> &Salt {
        &self.salt
    }

    /// Returns the public key that checks a client's proof.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    pub(crate) fn server_key(&self) -> &Secret<32> {
        &self.server_key
    }
}

const PREFIX: &str = "$chan$argon2id$v=19$";

impl FromStr for PasswordVerifier {
    type Err = VerifierError;

    fn from_str(line: &str) -> Result<Self, VerifierError> {
        let fields = line.strip_prefix(PREFIX).ok_or(VerifierError::NotAVerifier)?;
        let mut fields = fields.split('$');
        let mut field = || fields.next().ok_or(VerifierError::NotAVerifier);
        let params = parse_params(field()?)?;
        let salt = decode::<16>(field()?)?;
        let public_key = PublicKey::from_bytes(*decode(field()?)?)?;
        let server_key = Secret::new(*decode(field()?)?);
        if fields.next().is_some() {
            return Err(VerifierError::NotAVerifier);
        }
        Ok(Self { params, salt: Salt(*salt), public_key, server_key })
    }
}

fn parse_params(text: &str) -> Result<Argon2Params, VerifierError> {
    let mut fields = text.split(',');
    let mut number = |name: &str| -> Option<u32> {
        let digits = fields.next()?.strip_prefix(name)?;
        let number = digits.parse::<u32>().ok()?;
        // A number has one spelling only: no sign, no leading zero.
        (number.to_string() == digits).then_some(number)
    };
    let (Some(m_kib), Some(t), Some(p)) = (number("m="), number("t="), number("p=")) else {
        return Err(VerifierError::NotAVerifier);
    };
    if fields.next().is_some() {
        return Err(VerifierError::NotAVerifier);
    }
    let p = u8::try_from(p).map_err(|_| VerifierError::NotAVerifier)?;
    Ok(Argon2Params::new(m_kib, t, p)?)
}

fn decode<const N: usize>(encoded: &str) -> Result<Zeroizing<[u8; N]>, VerifierError> {
    let mut bytes = Zeroizing::new([0; N]);
    decode_exactly(encoded, &mut *bytes).ok_or(VerifierError::NotAVerifier)?;
    Ok(bytes)
}

impl fmt::Debug for PasswordVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PasswordVerifier({}, {}, ..)", self.params, self.public_key)
    }
}

/// The reason that a line is not a verifier. Reveals nothing about the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifierError {
    /// The line has another form.
    #[error("not a verifier: expected `{PREFIX}m=…,t=…,p=…$<salt>$<public key>$<server key>`")]
    NotAVerifier,
    /// The parameters are outside of the bounds that clients accept.
    #[error("the verifier's parameters: {0}")]
    Params(#[from] ParamsError),
    /// The public key must not be used.
    #[error("the verifier's key: {0}")]
    Key(#[from] KeyError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::PrivateKey;

    fn verifier() -> PasswordVerifier {
        let key = PrivateKey::from_seed(Secret::new([1; 32])).unwrap();
        PasswordVerifier::new(Argon2Params::DEFAULT, Salt([2; 16]), key.public_key(), Secret::new([3; 32]))
    }

    #[test]
    fn a_line_reads_back_as_the_same_verifier() {
        let line = verifier().to_line();
        assert!(line.starts_with("$chan$argon2id$v=19$m=65536,t=3,p=1$AgICAgICAgICAgICAgICAg$"));
        assert_eq!(line.parse(), Ok(verifier()));
    }

    #[test]
    fn a_line_has_one_spelling() {
        let line = verifier().to_line();
        for (from, to) in [
            ("v=19", "v=16"),
            ("argon2id", "argon2i"),
            ("m=65536", "m=065536"),
            ("m=65536", "m=+65536"),
            ("t=3,p=1", "p=1,t=3"),
            ("p=1", "p=1,x=1"),
            ("p=1", "p=257"),
            ("AgICAgICAgICAgICAgICAg", "AgICAgICAgICAgICAgICAh"),
            ("AgICAgICAgICAgICAgICAg", "AgICAgICAgICAgICAgICAg=="),
            ("AgICAgICAgICAgICAgICAg", "AgICAgICAgICAgICAgICAgIC"),
            ("AgICAgICAgICAgICAgICAg", "AgICAgICAgICAgICAgICAg$"),
        ] {
            assert!(line.contains(from));
            let changed = line.replace(from, to);
            assert_eq!(changed.parse::<PasswordVerifier>(), Err(VerifierError::NotAVerifier), "{changed}");
        }
        let cut = line.rsplit_once('$').unwrap().0;
        assert_eq!(cut.parse::<PasswordVerifier>(), Err(VerifierError::NotAVerifier));
        let more = format!("{}$", *line);
        assert_eq!(more.parse::<PasswordVerifier>(), Err(VerifierError::NotAVerifier));
    }

    #[test]
    fn refuses_unusable_parameters_at_load() {
        let line = verifier().to_line().replace("m=65536", "m=4294967295");
        let refused = Err(VerifierError::Params(ParamsError::Memory(u32::MAX)));
        assert_eq!(line.parse::<PasswordVerifier>(), refused);
    }

    #[test]
    fn refuses_forgeable_key_at_load() {
        let line = verifier().to_line();
        let mut fields: Vec<_> = line.split('$').collect();
        let zeros = URL_SAFE_NO_PAD.encode([0; 32]);
        fields[6] = &zeros;
        let refused = Err(VerifierError::Key(KeyError::SmallOrder));
        assert_eq!(fields.join("$").parse::<PasswordVerifier>(), refused);
    }

    #[test]
    fn printing_a_verifier_for_debugging_shows_no_secret() {
        let shown = format!("{:?}", verifier());
        assert!(!shown.contains(&URL_SAFE_NO_PAD.encode([3; 32])), "{shown}");
        assert!(!shown.contains("3, 3"), "{shown}");
    }
}
