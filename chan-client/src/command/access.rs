//! From the command line to a connection.

use std::io::{ErrorKind, Read};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lib_chan::private;
use lib_chan::secret::{Password, PrivateKey};
use lib_chan::signals::{Signal, Subscription};
use lib_chan::{Channel, ConnectionState, Limits, Opaque, stdio};
use tokio::time::{Instant, timeout};

use super::arguments::{Access, Start};
use super::failure::Failure;
use super::notice::Notice;
use crate::bookmark::Bookmarks;
use crate::connect::{Connect, Step, connect};
use crate::json::compact;
use crate::url::ChanUrl;

/// The time for the end of a session once the user's own timeout has passed, or the command is over.
pub(super) const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(100);

/// The longest frame of the protocol (PROTOCOL.md, section 17).
const MAX_MESSAGE_LEN: u64 = 16 * 1024 * 1024;

/// The secret with which the user logs in.
pub(super) enum Secret {
    Password(Password),
    Key(PrivateKey),
}

impl Secret {
    /// Takes the new secret. The same password stays, because the keys that were derived from it are kept in its value.
    fn replace(&mut self, new: Self) {
        match (&*self, &new) {
            (Self::Password(old), Self::Password(new)) if old == new => {}
            _ => *self = new,
        }
    }
}

/// The file with the secret. A pipe gives it only once.
enum SecretFile {
    Password(PathBuf),
    Key(PathBuf),
}

impl SecretFile {
    fn is_regular(&self) -> bool {
        let (Self::Password(path) | Self::Key(path)) = self;
        path.is_file()
    }

    fn read(&self) -> Result<Secret, Failure> {
        Ok(match self {
            Self::Password(path) => Secret::Password(Password::from_file(path)?),
            Self::Key(path) => Secret::Key(PrivateKey::from_file(path)?),
        })
    }
}

/// Everything that a connection needs, checked before anything is sent.
pub(super) struct Way {
    pub(super) url: ChanUrl,
    secret: Mutex<Secret>,
    /// `None` if the secret was typed, or came from a pipe.
    file: Option<SecretFile>,
    accept_new: bool,
    timeout: Option<Duration>,
    wait: Option<Duration>,
    pub(super) resume: Duration,
}

impl Access {
    /// Reads the files. Asks for the password on the terminal if no file with a secret is named.
    pub(super) fn way(&self) -> Result<Way, Failure> {
        let url = self.url()?;
        let file = self.secret_file();
        let secret = Mutex::new(match &file {
            Some(file) => file.read()?,
            None => Secret::Password(ask(&url)?),
        });
        let file = file.filter(SecretFile::is_regular);
        let (accept_new, timeout, wait) = (self.accept_new, self.timeout, self.wait);
        Ok(Way { url, secret, file, accept_new, timeout, wait, resume: Duration::ZERO })
    }

    fn url(&self) -> Result<ChanUrl, Failure> {
        match self.url.strip_prefix('@') {
            Some(name) => Ok(Bookmarks::of_user()?.url(name)?),
            None => self.url.parse().map_err(Failure::usage),
        }
    }

    fn secret_file(&self) -> Option<SecretFile> {
        let key = self.key_file.clone().map(SecretFile::Key);
        key.or_else(|| self.password_file.clone().map(SecretFile::Password))
    }
}

fn ask(url: &ChanUrl) -> Result<Password, Failure> {
    let client = match url.client().as_str() {
        "" => String::new(),
        name => format!("{name} of "),
    };
    let question = format!("Password for {client}{} at {}: ", url.service(), url.authority_list());
    let typed = private::ask(&question).map_err(|error| match error.kind() {
        ErrorKind::Interrupted => Failure::signal(Signal::Interrupt, "nothing was sent"),
        _ => {
            Failure::usage("there is no terminal to ask for the password; give --password-file or --key-file")
        }
    })?;
    let typed = typed.ok_or_else(|| Failure::usage("no password was given"))?;
    Password::from_file_contents(&typed).map_err(Failure::usage)
}

impl Way {
    /// Lets sessions outlive their connections by this time.
    pub(super) const fn resuming(mut self, time: Duration) -> Self {
        self.resume = time;
        self
    }

    /// Waits for a server that cannot be reached, or a login that is cut, as long as a session waits for its next
    /// connection.
    pub(super) fn patient(mut self) -> Self {
        self.wait = self.wait.max(Some(self.resume));
        self
    }

    /// Reads the file with the secret once more. A command that runs for months logs in again after its key was replaced.
    pub(super) fn read_again(&self, notice: &Notice) {
        match self.file.as_ref().map(SecretFile::read) {
            Some(Ok(secret)) => self.secret().replace(secret),
            // The secret of before may still be good. If it is not, the refused login says so.
            Some(Err(failure)) => notice.detail(|| failure.to_string()),
            None => {}
        }
    }

    fn secret(&self) -> MutexGuard<'_, Secret> {
        self.secret.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prepares a connection that reports its steps to `notice`.
    pub(super) fn connect<'c>(&'c self, notice: &'c Notice) -> Connect<'c> {
        notice.wait_for("connecting");
        self.quietly().accept_new(self.accept_new).on_step(|step| self.tell(&step, notice))
    }

    /// Prepares a connection that reports nothing, and accepts no new key of a server.
    pub(super) fn quietly<'c>(&self) -> Connect<'c> {
        let connect = connect(self.url.clone()).wait_for_server(self.wait.unwrap_or_default());
        let connect = match self.timeout {
            Some(timeout) => connect.timeout(timeout),
            None => connect,
        };
        match &*self.secret() {
            Secret::Password(password) => connect.password(password),
            Secret::Key(key) => connect.key(key),
        }
    }

    /// Starts the user's timeout. Questions before this call cost none of it.
    pub(super) fn begin(&self) -> Bound {
        Bound(self.timeout.map(|timeout| (Instant::now(), timeout)))
    }

    fn tell(&self, step: &Step, notice: &Notice) {
        if let Step::NotNoted(why) = step {
            return notice
                .complain(format_args!("warning: the server's key was accepted, but not saved: {why}"));
        }
        notice.wait_for(match step {
            Step::Connected(_) => "setting up TLS",
            Step::Encrypted { .. } => "logging in",
            Step::Stretching | Step::Outlasted => "deriving the key from the password",
            Step::LoggedIn { .. } => "starting the service",
            _ => "connecting",
        });
        notice.detail(|| match step {
            Step::Found { host, addresses } => {
                let addresses = addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
                format!("{host} has the addresses {}", addresses.join(", "))
            }
            Step::Connected(address) => format!("connected to {address}"),
            Step::Encrypted { group, pin } => format!("TLS 1.3 with {group}; the server's key is {pin}"),
            Step::LoggedIn { parameters, .. } => format!(
                "logged in with a {}; frames of at most {} bytes, a window of {} bytes, a heartbeat of {}",
                match &*self.secret() {
                    Secret::Password(_) => "password",
                    Secret::Key(_) => "key",
                },
                parameters.max_frame_len(),
                parameters.window_len(),
                humantime::format_duration(parameters.heartbeat_interval()),
            ),
            Step::NotNoted(why) => format!("the server's key was not saved: {why}"),
            Step::Stretching => "deriving the key from the password".into(),
            Step::Outlasted => {
                "the time for the login has passed: connecting again once the key is derived".into()
            }
            Step::KeyOutdated => {
                "the server has changed its salt: deriving a new key and connecting again".into()
            }
            Step::Retrying { why, again_in } if again_in.is_zero() => {
                format!("{why}; trying the next server")
            }
            Step::Retrying { why, again_in } => format!("{why}; connecting again in {again_in:.1?}"),
        });
    }
}

/// The user's timeout for a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound(Option<(Instant, Duration)>);

impl Bound {
    /// Returns the time that is left, or `None` if the user gave no timeout.
    pub(super) fn left(self) -> Option<Duration> {
        self.0.map(|(began, time)| time.saturating_sub(began.elapsed()))
    }
}

/// Closes the session gracefully, until the user's timeout or a signal. The result of the command is already known, and
/// the close does not change it.
pub(super) async fn close(chan: Channel<Opaque>, bound: Bound, signals: &mut Subscription, notice: &Notice) {
    notice.wait_for("closing the session");
    // Dropping the future ends the session too, but the other end needs a moment to learn of it.
    let time = match chan.remote().connection() {
        ConnectionState::Detached { .. } => LAST_WORDS_TIMEOUT,
        ConnectionState::Attached { .. } => {
            bound.left().map_or_else(|| Limits::default().close_timeout, |left| left.max(LAST_WORDS_TIMEOUT))
        }
    };
    let closed = notice.during(signals, async { Ok(timeout(time, chan.close()).await) });
    drop(closed.await);
}

impl Start {
    /// Returns the arguments of the service, by default `null`.
    pub(super) fn args(&self) -> Result<Box<str>, Failure> {
        json("the value of --args", self.args.as_deref().unwrap_or("null"))
    }
}

/// Returns the message on the command line, or the message on standard input if the argument is `-`.
pub(super) fn message(argument: &str) -> Result<Box<str>, Failure> {
    if argument != "-" {
        return json("the message", argument);
    }
    let mut bytes = Vec::new();
    let cannot = |error| Failure::local(format_args!("cannot read the message from standard input: {error}"));
    stdio::stdin().take(MAX_MESSAGE_LEN + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_MESSAGE_LEN {
        return Err(Failure::usage(format_args!(
            "the message from standard input is longer than {MAX_MESSAGE_LEN} bytes, which no server takes \
             (nothing was sent)"
        )));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let error = error.utf8_error();
        Failure::usage(format_args!(
            "the message from standard input is not UTF-8: {error} (nothing was sent)"
        ))
    })?;
    json_quoted("the message from standard input", &text, "")
}

/// Checks the JSON of an argument before anything is sent.
pub(super) fn json(what: &str, text: &str) -> Result<Box<str>, Failure> {
    json_quoted(what, text, ", and the whole in single quotes for the shell")
}

/// Checks JSON typed into this program, where no shell removes quotes.
pub(super) fn typed_json(what: &str, text: &str) -> Result<Box<str>, Failure> {
    json_quoted(what, text, "")
}

fn json_quoted(what: &str, text: &str, whole: &str) -> Result<Box<str>, Failure> {
    let advice = "strings and field names stand in double quotes";
    compact(text).map(String::into_boxed_str).map_err(|error| {
        Failure::usage(format_args!("{what} is not JSON: {error}; {advice}{whole} (nothing was sent)"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(url: &str) -> Access {
        Access {
            url: url.into(),
            password_file: None,
            key_file: None,
            accept_new: false,
            timeout: None,
            wait: None,
        }
    }

    fn failure(access: &Access) -> Failure {
        access.way().err().expect("the access was accepted")
    }

    #[test]
    fn reads_secrets_from_files() {
        let directory = tempfile::tempdir().unwrap();
        let (password, key) = (directory.path().join("password"), directory.path().join("key"));
        private::create(&password, b"secret\n").unwrap();
        PrivateKey::generate().unwrap().create_file(&key).unwrap();
        let with_password = Access { password_file: Some(password.clone()), ..access("chan://h:1/s?tofu") };
        assert!(matches!(*with_password.way().unwrap().secret(), Secret::Password(_)));
        let with_key = Access { key_file: Some(key), ..access("chan://h:1/s?tofu") };
        assert!(matches!(*with_key.way().unwrap().secret(), Secret::Key(_)));
        let with_wrong = Access { key_file: Some(password.clone()), ..access("chan://h:1/s?tofu") };
        let error = failure(&with_wrong).to_string();
        assert!(error.starts_with(&password.display().to_string()) && !error.contains("secret"), "{error}");
    }

    #[test]
    fn reports_wrong_url_without_repeating_it() {
        let failure = failure(&access("chan://joe:secret@h:1/s?tofu"));
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.to_string().contains("a password does not belong in a URL"), "{failure}");
        assert!(!failure.to_string().contains("secret"), "{failure}");
    }

    #[test]
    fn reports_place_of_invalid_json() {
        let failure = json("the message", "{Lookup: 1}").unwrap_err();
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.to_string().contains("line 1 column 2"), "{failure}");
    }
}
