//! `chan-server passwd`: from a password to what a server stores of it.

use std::io::{ErrorKind, IsTerminal, Read, Write, stdin, stdout};
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use lib_chan::auth::{Argon2Params, ClientId, PasswordVerifier, Salt, ServiceName};
use lib_chan::secret::Password;
use lib_chan::{private, stdio};
use zeroize::Zeroizing;

use super::arguments::Place;
use super::{Failure, print_line};
use crate::config::MIN_CHARS;

#[derive(Debug, Args)]
pub(super) struct Passwd {
    /// The service that the password opens
    #[arg(value_parser = ServiceName::new)]
    service: ServiceName,
    /// The client that it belongs to; without one, all clients share it
    #[arg(value_parser = ServiceName::new)]
    client: Option<ServiceName>,
    /// Make a password of 128 random bits, instead of asking for one
    #[arg(long)]
    generate: bool,
    /// Take the password from this file; with --generate, write it there
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Write the verifier to this file, instead of to standard output
    #[arg(long, value_name = "FILE")]
    verifier_file: Option<PathBuf>,
    /// Take a typed password of fewer than 12 characters
    #[arg(long, conflicts_with = "generate")]
    weak: bool,
    #[command(flatten)]
    place: Place,
}

impl Passwd {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let password = self.password()?;
        if password.chars() < MIN_CHARS && !self.weak {
            return Err(Failure::usage(format_args!(
                "a password of fewer than {MIN_CHARS} characters can be guessed; take a longer one, or --generate, or \
                 --weak if you know what it opens"
            )));
        }
        match &self.password_file {
            // The server takes the password itself from that file; a verifier beside it would be of no use.
            Some(file) if self.generate && self.verifier_file.is_none() => print_line(&format!(
                "made {}; in the configuration: password_file = {file:?}",
                file.display()
            )),
            _ => self.write_verifier(&self.verifier(&password)?),
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
                stdio::stdin().take(Password::MAX_FILE_LEN as u64 + 1).read_to_end(&mut contents)?;
                contents
            }
        };
        Password::from_file_contents(&contents).map_err(Failure::usage)
    }

    fn generated(&self) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let line = generate()?;
        match &self.password_file {
            Some(file) => private::create(file, line.as_bytes())?,
            // Not to standard output, where the verifier goes.
            None => stdio::stderr().write_all(format!("password: {}", *line).as_bytes())?,
        }
        Ok(Zeroizing::new(line.as_bytes().to_vec()))
    }

    fn verifier(&self, password: &Password) -> Result<PasswordVerifier, Failure> {
        let client = match &self.client {
            Some(client) => ClientId::new(client.as_str()).map_err(Failure::usage)?,
            None => ClientId::default(),
        };
        let salt = match self.place.state()?.known_name_key()? {
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
        print_line(&format!("made {}; in the configuration: verifier_file = {file:?}", file.display()))
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
            _ => error.into(),
        })?;
        answer.ok_or_else(|| Failure::usage("no password was given; nothing was made"))
    };
    let (first, second) = (ask("Password: ")?, ask("Once more: ")?);
    if first != second {
        return Err(Failure::usage("the two are not the same; nothing was made"));
    }
    Ok(first)
}
