//! The credentials of clients, as a configuration states them.

use std::collections::HashSet;
use std::io;

use lib_chan::auth::PasswordVerifier;
use lib_chan::private::{self, quoted};
use lib_chan::secret::{KeyError, Password, PasswordError, PrivateKey, PublicKey};
use toml::Spanned;
use zeroize::Zeroizing;

use super::Context;
use super::document::{Problems, Table};

/// The credential of a client.
#[derive(Debug)]
#[non_exhaustive]
pub enum Credential {
    /// A password that the server knows, and makes a verifier of when it starts.
    Password(Password),
    /// A verifier made by `chan-server passwd`; the server does not know the password.
    Verifier(Box<PasswordVerifier>),
    /// The public half of a client's key.
    Key(PublicKey),
}

impl From<Password> for Credential {
    fn from(password: Password) -> Self {
        Self::Password(password)
    }
}

impl From<PublicKey> for Credential {
    fn from(key: PublicKey) -> Self {
        Self::Key(key)
    }
}

/// The salts of the verifiers seen. One that comes twice stands under two names, and a client that is shown the same
/// salt under both would know that both exist.
pub(super) type Salts = HashSet<[u8; 16]>;

/// The keys a credential can stand under, for a password that all clients of a service share.
pub(super) const SHARED: &[&str] = &["password", "password_file", "verifier", "verifier_file"];
/// The same for a client of its own.
pub(super) const OWN: &[&str] = &["password", "password_file", "verifier", "verifier_file", "key"];

/// A typed password of fewer characters can be guessed by whoever steals a verifier.
pub(crate) const MIN_CHARS: usize = 12;
/// No verifier's line has more bytes.
const MAX_LINE_LEN: usize = 512;

/// Reads the one credential in a table, for `who` as `chan-server passwd` takes names; `Ok(None)` when there is none, `Err` when what is there was reported.
pub(super) fn read(
    table: &mut Table<'_>,
    keys: &[&'static str],
    who: &str,
    context: &Context<'_>,
    salts: &mut Salts,
    problems: &mut Problems<'_>,
) -> Result<Option<Credential>, ()> {
    let weak = table.value::<bool>("weak", "true", problems).is_some_and(Spanned::into_inner);
    let entries: Vec<_> = keys.iter().filter_map(|key| table.take(key)).collect();
    if !keys.contains(&"key")
        && let Some(key) = table.take("key")
    {
        let wrong = "\"key\" belongs to one client; put it under [[service.client]], with a name";
        problems.add(&key.key_span, wrong.into());
        return Err(());
    }
    let mut entries = entries.into_iter();
    let Some(entry) = entries.next() else { return Ok(None) };
    if let Some(second) = entries.next() {
        let both = format!("\"{}\" excludes \"{}\"; keep one of the two", second.key, entry.key);
        problems.add(&second.key_span, both);
        return Err(());
    }
    let (key, span) = (entry.key, entry.key_span.clone());
    let text = Zeroizing::new(entry.value::<String>(example(key), problems).ok_or(())?.into_inner());
    let credential = match key {
        "password" => private(key, context).and_then(|()| password(key, Password::new(&text), weak)),
        "password_file" => secret_file(key, who, &text, Password::MAX_FILE_LEN, context)
            .and_then(|bytes| password(key, Password::from_file_contents(&bytes), weak)),
        "verifier" => private(key, context).and_then(|()| verifier(key, who, &text, salts)),
        "verifier_file" => secret_file(key, who, &text, MAX_LINE_LEN, context).and_then(|bytes| {
            verifier(key, who, str::from_utf8(&bytes).unwrap_or_default().trim_ascii_end(), salts)
        }),
        _ => public_key(key, &text),
    };
    credential.map(Some).map_err(|text| problems.add(&span, text))
}

fn example(key: &str) -> &'static str {
    match key {
        "password" => "\"…\" (12 characters or more)",
        "password_file" => "\"name.password\"",
        "verifier" => "\"$chan$argon2id$…\" (as chan-server passwd prints it)",
        "verifier_file" => "\"name.verifier\"",
        _ => "\"ed25519:…\" (the client's public key)",
    }
}

/// A configuration that holds a secret is a secret file.
fn private(key: &str, context: &Context<'_>) -> Result<(), String> {
    let Some(mode) = context.shared_mode else { return Ok(()) };
    let file = quoted(context.file);
    Err(format!(
        "\"{key}\" is in a file that other users may read (mode {mode:04o}); run: chmod 600 {file}, or write {key}_file"
    ))
}

fn secret_file(
    key: &str,
    who: &str,
    name: &str,
    max: usize,
    context: &Context<'_>,
) -> Result<Zeroizing<Vec<u8>>, String> {
    private::read(&context.beside(name), max).map_err(|error| match error.io_kind() {
        Some(io::ErrorKind::NotFound) => {
            let path = quoted(error.path());
            let make = match key {
                "password_file" => format!("--generate --password-file {path}"),
                _ => format!("--verifier-file {path}"),
            };
            format!("\"{key}\": there is no {path}; make it with: chan-server passwd {who} {make}")
        }
        _ => format!("\"{key}\": {error}"),
    })
}

fn password(key: &str, password: Result<Password, PasswordError>, weak: bool) -> Result<Credential, String> {
    let password = password.map_err(|error| {
        let instead = match error {
            PasswordError::SomethingElse(what) if what.contains("verifier") => match key {
                "password_file" => "write verifier_file instead of password_file",
                _ => "write verifier instead of password",
            },
            PasswordError::SomethingElse(what) if what.contains("public") => {
                "write key instead, under [[service.client]]"
            }
            PasswordError::ByteOrderMark | PasswordError::SeveralLines => "correct the file",
            _ => GENERATE,
        };
        format!("\"{key}\": {error}; {instead}")
    })?;
    let chars = password.chars();
    if chars < MIN_CHARS && !weak {
        return Err(format!(
            "\"{key}\" has fewer than {MIN_CHARS} characters and can be guessed; {GENERATE}, or add: weak = true"
        ));
    }
    Ok(Credential::Password(password))
}

const GENERATE: &str = "choose another, for example with chan-server passwd --generate";

fn verifier(key: &str, who: &str, line: &str, salts: &mut Salts) -> Result<Credential, String> {
    let instead = format!("make one for this name with: chan-server passwd {who}");
    let verifier: PasswordVerifier =
        line.parse().map_err(|error| format!("\"{key}\": {error}; {instead}"))?;
    if !salts.insert(verifier.salt().0) {
        return Err(format!("\"{key}\" is also the verifier of another name; {instead}"));
    }
    Ok(Credential::Verifier(Box::new(verifier)))
}

fn public_key(key: &str, line: &str) -> Result<Credential, String> {
    if PrivateKey::from_file_contents(line.as_bytes()).is_ok() {
        return Err(format!(
            "\"{key}\" is a client's private key, which a server must not have; write its public key, which \
             chan-client pubkey FILE prints"
        ));
    }
    let public = line
        .parse()
        .map_err(|error: KeyError| format!("\"{key}\": {error}; ask the client for its public key"))?;
    Ok(Credential::Key(public))
}
