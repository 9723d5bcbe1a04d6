//! `chan-server passwd`: from a password to what a server stores of it.

use std::io::{ErrorKind, IsTerminal, Read, Write, stdin, stdout};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use lib_chan::auth::{Argon2Params, ClientId, NameKey, PasswordVerifier, Salt, ServiceName};
use lib_chan::secret::Password;
use lib_chan::{private, stdio};
use zeroize::Zeroizing;

use super::arguments::Place;
use super::{Failure, print_line};
use crate::config::MIN_CHARS;
use crate::identity::IdentityError;

#[derive(Debug, Args)]
pub(super) struct Passwd {
    /// The service that the password opens
    #[arg(value_parser = ServiceName::new)]
    service: ServiceName,
    /// The client that the password belongs to [default: all clients share it]
    #[arg(value_parser = ServiceName::new)]
    client: Option<ServiceName>,
    /// Make a password of 128 random bits instead of asking for one
    #[arg(long)]
    generate: bool,
    /// The file to read the password from, or with --generate the new file to write it to
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The new file to write the verifier to [default: standard output]
    #[arg(long, value_name = "FILE")]
    verifier_file: Option<PathBuf>,
    /// Accept a password of fewer than 12 characters
    #[arg(long, conflicts_with = "generate")]
    weak: bool,
}

impl Passwd {
    pub(super) fn run(&self, place: &Place) -> Result<(), Failure> {
        let password = self.password()?;
        if password.chars() < MIN_CHARS && !self.weak {
            return Err(Failure::usage(format_args!(
                "a password of fewer than {MIN_CHARS} characters can be guessed; take a longer one, or --generate, or \
                 --weak if you know what it opens"
            )));
        }
        match &self.password_file {
            // The server takes the password itself from that file; a verifier beside it would be of no use.
            Some(file) if self.generate && self.verifier_file.is_none() => {
                print_line(&made(file, "password_file"))
            }
            _ => self.write_verifier(&self.verifier(&password, place)?),
        }
    }

    /// Made, read, or asked for.
    fn password(&self) -> Result<Password, Failure> {
        let contents = match &self.password_file {
            _ if self.generate => self.generated()?,
            Some(file) => private::read(file, Password::MAX_FILE_LEN)?,
            None if stdin().is_terminal() => asked()?,
            None => {
                let mut contents = Zeroizing::new(Vec::with_capacity(Password::MAX_FILE_LEN + 1));
                let failed = |error| {
                    Failure::local(format_args!("cannot read the password from standard input: {error}"))
                };
                let most = Password::MAX_FILE_LEN as u64 + 1;
                stdio::stdin().take(most).read_to_end(&mut contents).map_err(failed)?;
                contents
            }
        };
        Password::from_file_contents(&contents).map_err(Failure::usage)
    }

    fn generated(&self) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let line = generate()?;
        match &self.password_file {
            Some(file) => private::create(file, line.as_bytes())?,
            // Not to standard output, where the verifier goes. A password that nobody saw is of no use.
            None => {
                let text = Zeroizing::new(format!("password: {}", *line));
                stdio::stderr().write_all(text.as_bytes()).map_err(|error| {
                    Failure::local(format_args!("cannot show the password on standard error: {error}"))
                })?;
            }
        }
        Ok(Zeroizing::new(line.as_bytes().to_vec()))
    }

    fn verifier(&self, password: &Password, place: &Place) -> Result<PasswordVerifier, Failure> {
        let client = match &self.client {
            Some(client) => ClientId::new(client.as_str()).map_err(Failure::usage)?,
            None => ClientId::default(),
        };
        let salt = match known_name_key(place)? {
            Some(name_key) => name_key.salt(&self.service, &client),
            // Away from the server any salt will do: it stays as long as the verifier does.
            None => {
                let mut salt = [0; 16];
                aws_lc_rs::rand::fill(&mut salt)
                    .map_err(|_| Failure::local("the system gave no random bytes"))?;
                Salt(salt)
            }
        };
        PasswordVerifier::derive(password, &salt, Argon2Params::DEFAULT).map_err(Failure::local)
    }

    fn write_verifier(&self, verifier: &PasswordVerifier) -> Result<(), Failure> {
        let mut line = verifier.to_line();
        let Some(file) = &self.verifier_file else {
            if stdout().is_terminal() {
                stdio::complain("in the configuration: verifier = \"…\", which is");
            }
            return print_line(&line);
        };
        line.push('\n');
        private::create(file, line.as_bytes())?;
        print_line(&made(file, "verifier_file"))
    }
}

/// The name key of the server here, if there is a server. A machine without a home has none.
fn known_name_key(place: &Place) -> Result<Option<NameKey>, Failure> {
    match place.state() {
        Err(IdentityError::NoPlace) => Ok(None),
        state => Ok(state?.known_name_key()?),
    }
}

/// Says that a file was made, with the line for the configuration. That is TOML, whatever the file is called.
fn made(file: &Path, key: &str) -> String {
    match file.to_str() {
        Some(name) => {
            let name = toml::Value::from(name);
            format!("made {}; in the configuration: {key} = {name}", file.display())
        }
        None => format!(
            "made {}; a configuration cannot name it, since its name is not UTF-8: rename it",
            file.display()
        ),
    }
}

/// A password of 128 random bits, on a line of its own.
pub(super) fn generate() -> Result<Zeroizing<String>, Failure> {
    let mut bytes = Zeroizing::new([0; 16]);
    aws_lc_rs::rand::fill(&mut *bytes).map_err(|_| Failure::local("the system gave no random bytes"))?;
    let mut line = Zeroizing::new(String::with_capacity(32));
    URL_SAFE_NO_PAD.encode_string(*bytes, &mut line);
    line.push('\n');
    Ok(line)
}

/// Asks twice, since nobody sees what is typed.
fn asked() -> Result<Zeroizing<Vec<u8>>, Failure> {
    let ask = |question| {
        let answer = private::ask(question).map_err(|error| match error.kind() {
            ErrorKind::Interrupted => Failure::interrupted("nothing was made"),
            _ => Failure::local(format_args!("cannot ask for the password on the terminal: {error}")),
        })?;
        answer.ok_or_else(|| Failure::usage("no password was given; nothing was made"))
    };
    let (first, second) = (ask("Password: ")?, ask("Once more: ")?);
    if first != second {
        return Err(Failure::usage("the two are not the same; nothing was made"));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_for_the_configuration_is_toml() {
        for name in ["e\u{301}.pw", "\u{200b}.pw", "\u{7f}.pw", "it's.pw", "a\"b.pw", "a\\b.pw", "a\nb"] {
            let said = made(Path::new(name), "password_file");
            let line = said.split_once("in the configuration: ").unwrap().1;
            let table: toml::Table = line.parse().unwrap();
            assert_eq!(table["password_file"].as_str(), Some(name), "{line}");
        }
    }
}
